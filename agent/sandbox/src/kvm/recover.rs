//! Back to the golden state: after a command, or after something that leaves no trust.

use std::sync::Arc;

use tracing::{error, info, warn};
use vmm::{Golden, StopReason};

use super::KvmSandbox;
use super::alone::{Alone, Inspection, hold, put_back, reset_failed};
use super::golden::GoldenSandbox;
use super::live::Live;
use super::observe::{as_found, before_reset};
use super::remains::{self, Exhibits};
use crate::Cause;
use crate::error::SandboxError;
use crate::state::ResetOutcome;
use crate::verify::{Baseline, Finding, Verification, VerificationParts};

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
                self.give_up(alone, live, &error);
                Err(error)
            }
        }
    }

    /// Gets rid of whatever a machine has become: resets it, or puts another one in its place if
    /// its guest has ended it. Ends it if there is no golden state, if it has stopped for another
    /// reason, or if somebody else than its guest has changed it.
    pub(super) fn recover(&self, live: &Arc<Live>, reason: &str) {
        warn!(reason, "the machine cannot be trusted as it is");
        let keeps_golden = self.lock().golden.is_some();
        // A failure is noted in the sandbox's state.
        let _ = if let Some(golden) = self.golden_of_ended(live) {
            Alone::with(self, live).and_then(|alone| self.replace(alone, live, &golden))
        } else if keeps_golden && live.machine.stop_reason().is_none() {
            self.check_and_rewind(live)
        } else {
            if self.is_ready_with(live) {
                let cause = Cause::ResetFailed(reason.to_owned());
                self.tell_guard(live, cause, || remains::of(&live.machine, Exhibits::default()));
            }
            self.condemn(live, reason);
            Ok(())
        };
    }

    /// The machine, if it can be put back. One whose guest has ended it has a successor.
    pub(super) fn ready_to_reset(&self) -> Result<Arc<Live>, SandboxError> {
        let live = self.ready()?;
        let Some(end) = live.machine.stop_reason() else { return Ok(live) };
        let Some(golden) = self.golden_of_ended(&live) else {
            return Err(SandboxError::ResetFailed { reason: end.to_string() });
        };
        self.replace(Alone::with(self, &live)?, &live, &golden)?;
        self.ready()
    }

    /// What a successor is made of, if the machine's guest has ended it.
    fn golden_of_ended(&self, live: &Live) -> Option<Arc<GoldenSandbox>> {
        live.machine.stop_reason().filter(is_by_its_guest)?;
        self.lock().golden.clone()
    }

    /// Puts another machine of the golden state in the place of one that is over: there is nothing
    /// to put back. Nobody has verified it yet. Leaves no machine if the disk of the one that is over
    /// has been changed by somebody else than its guest.
    fn replace(
        &self,
        alone: Alone<'_>,
        live: &Live,
        golden: &GoldenSandbox,
    ) -> Result<(), SandboxError> {
        if let Some(baseline) = self.baseline() {
            match before_reset(&live.machine) {
                Ok(found) if found.is_empty() => {}
                Ok(found) => {
                    self.halt_as_found(alone, live, &baseline, golden.golden(), found);
                    return Ok(());
                }
                Err(error) => {
                    self.give_up(alone, live, &error);
                    return Err(error);
                }
            }
        }
        match golden.fork(|_| alone.still_wanted()) {
            Ok(successor) => {
                info!("another machine takes the place of one that its guest has ended");
                if let Some(command_id) = live.last_command() {
                    successor.begins(&command_id);
                }
                alone.succeed(successor);
                Ok(())
            }
            Err(error) => {
                self.give_up(alone, live, &error);
                Err(error)
            }
        }
    }

    /// Puts a machine back, unless a verified reset would find something before it: what is thrown
    /// away here nobody can look at later.
    fn check_and_rewind(&self, live: &Arc<Live>) -> Result<(), SandboxError> {
        let (Some(golden), Some(baseline)) = (self.golden(), self.baseline()) else {
            return self.rewind(live, None).map(|_| ());
        };
        let alone = Alone::with(self, live)?;
        let found = hold(&live.machine)
            .map_err(|error| reset_failed(&error))
            .and_then(|()| before_reset(&live.machine));
        match found {
            Ok(found) if found.is_empty() => {
                let put_back = put_back(live, alone.strategy(), None);
                self.conclude(alone, live, put_back.map(|_| ()))
            }
            Ok(found) => {
                self.halt_as_found(alone, live, &baseline, &golden, found);
                Ok(())
            }
            Err(error) => self.conclude(alone, live, Err(error)),
        }
    }

    /// Ends a machine as it was found. Who asks next for a verified reset is told why: the machine
    /// is gone by then.
    fn halt_as_found(
        &self,
        alone: Alone<'_>,
        live: &Live,
        baseline: &Baseline,
        golden: &Arc<Golden>,
        found: Vec<Finding>,
    ) {
        let exhibits = Exhibits::of(&live.machine, golden, &found);
        let verification = baseline.judge(as_found(found, VerificationParts::default()));
        self.lock().failed = Some(verification.clone());
        self.halt(alone, live, &verification, exhibits);
    }

    /// Ends a reset that nobody verified.
    fn conclude(
        &self,
        alone: Alone<'_>,
        live: &Arc<Live>,
        result: Result<(), SandboxError>,
    ) -> Result<(), SandboxError> {
        match &result {
            Ok(()) => alone.end(Ok(())),
            Err(error) => match self.golden_of_ended(live) {
                // It was on its way down when somebody began to put it back.
                Some(golden) => return self.replace(alone, live, &golden),
                None => self.give_up(alone, live, error),
            },
        }
        result
    }

    /// Ends a machine that could not be put back.
    pub(super) fn give_up(&self, alone: Alone<'_>, live: &Live, error: &SandboxError) {
        if alone.still_wanted() {
            let cause = Cause::ResetFailed(error.to_string());
            self.tell_guard(live, cause, || remains::of(&live.machine, Exhibits::default()));
        }
        alone.end(Err(&error.to_string()));
    }

    /// Ends a machine that did not pass.
    pub(super) fn halt(
        &self,
        alone: Alone<'_>,
        live: &Live,
        verification: &Verification,
        exhibits: Exhibits,
    ) {
        error!(?verification, "a machine did not pass its verification");
        if alone.still_wanted() {
            let cause = Cause::Verification(Box::new(verification.clone()));
            self.tell_guard(live, cause, || remains::of(&live.machine, exhibits));
        }
        let reason = verification.failure().unwrap_or_default();
        alone.end(Err(&reason));
    }
}

/// Whether a tool can have done that to its machine. Whoever ends machines from outside, and a
/// processor that KVM cannot run, are no tool's doing.
fn is_by_its_guest(end: &StopReason) -> bool {
    match end {
        StopReason::GuestPanic(_)
        | StopReason::TripleFault
        | StopReason::GuestReset
        | StopReason::DeviceFault(_) => true,
        StopReason::Shutdown | StopReason::BootFailed(_) | StopReason::VcpuError(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_guest_can_do_is_its_doing() {
        for end in
            [StopReason::GuestPanic("x".into()), StopReason::TripleFault, StopReason::GuestReset]
        {
            assert!(is_by_its_guest(&end), "{end}");
        }
        for end in [StopReason::Shutdown, StopReason::VcpuError("x".into())] {
            assert!(!is_by_its_guest(&end), "{end}");
        }
    }
}
