//! Back to the golden state: after a command, or after something that leaves no trust.

use std::sync::Arc;

use tracing::{error, info, warn};
use vmm::{Golden, ResetReport, StopReason};

use super::KvmSandbox;
use super::connected::Connected;
use super::exclusive::{ExclusiveMachine, Inspection, hold, reset_failed, reset_machine};
use super::forensics::{self, MismatchedBlocks};
use super::golden::GoldenSandbox;
use super::observe::{before_reset, not_reset};
use crate::Cause;
use crate::error::SandboxError;
use crate::state::ResetOutcome;
use crate::verify::{Baseline, Finding, Verification, VerificationParts};

impl KvmSandbox {
    /// Puts a machine back to its golden state. Calls that are under way fail. Afterwards it is
    /// ready, or will never be used again.
    ///
    /// `inspect` sees the machine when it has been reset and has not run yet.
    pub(super) fn reset_connected(
        &self,
        connected: &Arc<Connected>,
        inspect: Option<&mut Inspection<'_>>,
    ) -> Result<(ResetOutcome, ResetReport), SandboxError> {
        let exclusive = ExclusiveMachine::take(self, connected)?;
        match reset_machine(connected, exclusive.strategy(), inspect) {
            Ok(report) => {
                let outcome = exclusive.outcome(&report);
                exclusive.end(Ok(()));
                Ok((outcome, report))
            }
            Err(error) => {
                self.retire(exclusive, connected, &error);
                Err(error)
            }
        }
    }

    /// Gets rid of whatever a machine has become: resets it, or puts another one in its place if
    /// its guest has ended it. Ends it if there is no golden state, if it has stopped for another
    /// reason, or if the host has changed it.
    pub(super) fn recover(&self, connected: &Arc<Connected>, reason: &str) {
        warn!(reason, "the machine cannot be trusted as it is");
        let keeps_golden = self.lock().golden.is_some();
        // A failure is noted in the sandbox's state.
        let _ = if let Some(golden) = self.golden_of_ended(connected) {
            ExclusiveMachine::take(self, connected)
                .and_then(|exclusive| self.replace(exclusive, connected, &golden))
        } else if keeps_golden && connected.machine.stop_reason().is_none() {
            self.check_and_reset(connected)
        } else {
            if self.is_ready_with(connected) {
                let cause = Cause::ResetFailed(reason.to_owned());
                self.report_incident(connected, cause, || {
                    forensics::dump(&connected.machine, MismatchedBlocks::default())
                });
            }
            self.condemn(connected, reason);
            Ok(())
        };
    }

    /// The machine, if it can be reset. One whose guest has ended it has a successor.
    pub(super) fn ready_to_reset(&self) -> Result<Arc<Connected>, SandboxError> {
        let connected = self.ready()?;
        let Some(end) = connected.machine.stop_reason() else { return Ok(connected) };
        let Some(golden) = self.golden_of_ended(&connected) else {
            return Err(SandboxError::ResetFailed { reason: end.to_string() });
        };
        self.replace(ExclusiveMachine::take(self, &connected)?, &connected, &golden)?;
        self.ready()
    }

    /// What a successor is made of, if the machine's guest has ended it.
    fn golden_of_ended(&self, connected: &Connected) -> Option<Arc<GoldenSandbox>> {
        connected.machine.stop_reason().filter(is_by_its_guest)?;
        self.lock().golden.clone()
    }

    /// Puts another machine of the golden state in the place of one that is over: there is nothing
    /// to reset. It has not been verified yet. Leaves no machine if the disk of the one that is over
    /// has been changed by the host.
    fn replace(
        &self,
        exclusive: ExclusiveMachine<'_>,
        connected: &Connected,
        golden: &GoldenSandbox,
    ) -> Result<(), SandboxError> {
        if let Some(baseline) = self.baseline() {
            match before_reset(&connected.machine) {
                Ok(found) if found.is_empty() => {}
                Ok(found) => {
                    self.halt_as_found(exclusive, connected, &baseline, golden.golden(), found);
                    return Ok(());
                }
                Err(error) => {
                    self.retire(exclusive, connected, &error);
                    return Err(error);
                }
            }
        }
        match golden.fork(|_| exclusive.is_current()) {
            Ok(successor) => {
                info!("another machine takes the place of one that its guest has ended");
                if let Some(command_id) = connected.last_command() {
                    successor.begins(&command_id);
                }
                exclusive.replace_with(successor);
                Ok(())
            }
            Err(error) => {
                self.retire(exclusive, connected, &error);
                Err(error)
            }
        }
    }

    /// Puts a machine back, unless a verified reset would find something before it: what is thrown
    /// away here cannot be looked at later.
    fn check_and_reset(&self, connected: &Arc<Connected>) -> Result<(), SandboxError> {
        let (Some(golden), Some(baseline)) = (self.golden(), self.baseline()) else {
            return self.reset_connected(connected, None).map(|_| ());
        };
        let exclusive = ExclusiveMachine::take(self, connected)?;
        let found = hold(&connected.machine)
            .map_err(|error| reset_failed(&error))
            .and_then(|()| before_reset(&connected.machine));
        match found {
            Ok(found) if found.is_empty() => {
                let reset_machine = reset_machine(connected, exclusive.strategy(), None);
                self.conclude(exclusive, connected, reset_machine.map(|_| ()))
            }
            Ok(found) => {
                self.halt_as_found(exclusive, connected, &baseline, &golden, found);
                Ok(())
            }
            Err(error) => self.conclude(exclusive, connected, Err(error)),
        }
    }

    /// Ends a machine as it was found. The next caller of a verified reset gets the reason: the machine
    /// is gone by then.
    fn halt_as_found(
        &self,
        exclusive: ExclusiveMachine<'_>,
        connected: &Connected,
        baseline: &Baseline,
        golden: &Arc<Golden>,
        found: Vec<Finding>,
    ) {
        let mismatched = MismatchedBlocks::of(&connected.machine, golden, &found);
        let verification = baseline.verify(not_reset(found, VerificationParts::default()));
        self.lock().failed = Some(verification.clone());
        self.halt(exclusive, connected, &verification, mismatched);
    }

    /// Ends a reset that was not verified.
    fn conclude(
        &self,
        exclusive: ExclusiveMachine<'_>,
        connected: &Arc<Connected>,
        result: Result<(), SandboxError>,
    ) -> Result<(), SandboxError> {
        match &result {
            Ok(()) => exclusive.end(Ok(())),
            Err(error) => match self.golden_of_ended(connected) {
                // It was on its way down when the reset began.
                Some(golden) => return self.replace(exclusive, connected, &golden),
                None => self.retire(exclusive, connected, error),
            },
        }
        result
    }

    /// Ends a machine that could not be reset.
    pub(super) fn retire(
        &self,
        exclusive: ExclusiveMachine<'_>,
        connected: &Connected,
        error: &SandboxError,
    ) {
        if exclusive.is_current() {
            let cause = Cause::ResetFailed(error.to_string());
            self.report_incident(connected, cause, || {
                forensics::dump(&connected.machine, MismatchedBlocks::default())
            });
        }
        exclusive.end(Err(&error.to_string()));
    }

    /// Ends a machine that did not pass.
    pub(super) fn halt(
        &self,
        exclusive: ExclusiveMachine<'_>,
        connected: &Connected,
        verification: &Verification,
        mismatched: MismatchedBlocks,
    ) {
        error!(?verification, "a machine did not pass its verification");
        if exclusive.is_current() {
            let cause = Cause::Verification(Box::new(verification.clone()));
            self.report_incident(connected, cause, || {
                forensics::dump(&connected.machine, mismatched)
            });
        }
        let reason = verification.failure().unwrap_or_default();
        exclusive.end(Err(&reason));
    }
}

/// Whether a tool can have done that to its machine. A process of the host that ends machines, and a
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
