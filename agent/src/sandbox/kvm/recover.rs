//! Back to the golden state: after a command, or after something that leaves no trust.

use std::sync::Arc;
use std::time::Instant;

use tracing::{debug, warn};

use vmm::{Machine, MachineError, ResetReport, Strategy};

use super::live::Live;
use super::{KvmSandbox, Phase, not_available};
use crate::sandbox::error::SandboxError;
use crate::sandbox::state::ResetOutcome;

/// Looks at a machine that has been put back and has not run yet.
type Inspection<'a> = dyn FnMut(&Machine) -> Result<(), MachineError> + 'a;

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
        let begun = Instant::now();
        let strategy = {
            let mut inner = self.lock();
            let Some(strategy) = inner.config.strategy else {
                return Err(not_available(
                    "the sandbox keeps no golden state: set a reset strategy and boot it again",
                ));
            };
            if !matches!(&inner.phase, Phase::Ready(current) if Arc::ptr_eq(current, live)) {
                return Err(not_available("somebody else has reset or ended the sandbox"));
            }
            inner.phase = Phase::Resetting(Arc::clone(live));
            strategy
        };
        let excluded = live.exclude_calls();
        let result = put_back(&live.machine, strategy, inspect)
            .map_err(|error| SandboxError::ResetFailed { reason: error.to_string() })
            .and_then(|report| {
                live.renew_channel()?;
                Ok(ResetOutcome { report, took: begun.elapsed() })
            });
        let mut inner = self.lock();
        if matches!(&inner.phase, Phase::Resetting(current) if Arc::ptr_eq(current, live)) {
            inner.phase = match &result {
                Ok(_) => Phase::Ready(Arc::clone(live)),
                Err(error) => Phase::Failed(error.to_string()),
            };
        }
        drop(inner);
        drop(excluded);
        self.settled.notify_all();
        match &result {
            Ok(outcome) => {
                debug!(took = ?outcome.took, pages = outcome.report.dirty_pages, "reset");
            }
            Err(error) => {
                warn!(code = error.code(), %error, "the reset failed: ending the machine");
                live.machine.shutdown();
            }
        }
        result
    }

    /// Gets rid of whatever a machine has become: resets it, or replaces it by a fork if it has
    /// stopped, or ends it if there is no golden state.
    pub(super) fn recover(&self, live: &Arc<Live>, reason: &str) {
        warn!(reason, "the machine cannot be trusted as it is");
        let keeps_golden = self.lock().golden.is_some();
        if keeps_golden && live.machine.stop_reason().is_none() {
            // A failure is noted in the sandbox's state.
            let _ = self.rewind(live, None);
        } else {
            self.condemn(live, reason);
        }
    }
}

fn put_back(
    machine: &Machine,
    strategy: Strategy,
    inspect: Option<&mut Inspection<'_>>,
) -> Result<ResetReport, MachineError> {
    let report = match inspect {
        None => machine.reset(strategy)?,
        Some(inspect) => {
            machine.pause()?;
            let report = machine.reset(strategy)?;
            inspect(machine)?;
            report
        }
    };
    // Also when somebody else had paused it.
    if machine.is_paused() {
        machine.resume()?;
    }
    Ok(report)
}
