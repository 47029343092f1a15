//! Back to the golden state: after a command, or after something that leaves no trust.

use std::sync::Arc;

use tracing::warn;

use super::KvmSandbox;
use super::alone::{Alone, Inspection, put_back};
use super::live::Live;
use super::remains;
use crate::sandbox::Cause;
use crate::sandbox::error::SandboxError;
use crate::sandbox::state::ResetOutcome;

impl KvmSandbox {
    /// Puts a machine back to its golden state. Calls that are under way fail. Afterwards it is
    /// ready, or will never be used again.
    ///
    /// `inspect` sees the machine when it has been put back and has not run yet.
    pub(super) fn rewind(
        &self,
        live: &Arc<Live>,
        inspect: Option<&mut Inspection<'_>>,
    ) -> Result<ResetOutcome, SandboxError> {
        let alone = Alone::with(self, live)?;
        match put_back(live, alone.strategy(), inspect) {
            Ok(report) => {
                let outcome = alone.outcome(report);
                alone.end(Ok(()));
                Ok(outcome)
            }
            Err(error) => {
                if alone.still_wanted() {
                    let cause = Cause::ResetFailed(error.to_string());
                    self.tell_guard(live, cause, || remains::of_failed(&live.machine));
                }
                alone.end(Err(&error.to_string()));
                Err(error)
            }
        }
    }

    /// Gets rid of whatever a machine has become: resets it, or ends it if it has stopped or there
    /// is no golden state.
    pub(super) fn recover(&self, live: &Arc<Live>, reason: &str) {
        warn!(reason, "the machine cannot be trusted as it is");
        let keeps_golden = self.lock().golden.is_some();
        if keeps_golden && live.machine.stop_reason().is_none() {
            // A failure is noted in the sandbox's state.
            let _ = self.rewind(live, None);
        } else {
            if self.is_ready_with(live) {
                let cause = Cause::ResetFailed(reason.to_owned());
                self.tell_guard(live, cause, || remains::of_failed(&live.machine));
            }
            self.condemn(live, reason);
        }
    }
}
