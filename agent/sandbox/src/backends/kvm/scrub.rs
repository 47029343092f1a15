//! Looking at an idle machine.

use tracing::warn;
use vmm::{IntegrityPlan, MachineError};

use super::KvmSandbox;
use super::exclusive::{ExclusiveMachine, hold};
use super::forensics::MismatchedBlocks;
use super::observe::not_reset;
use crate::verify::{Finding, Location, Source, Verification, VerificationParts};

/// Read at once: a command may want the machine at any moment.
fn step() -> IntegrityPlan {
    let mut plan = IntegrityPlan::default();
    (plan.blocks, plan.pages, plan.copies) = (4, 4, 0);
    plan
}

impl KvmSandbox {
    /// See [`Sandbox::scrub`](crate::Sandbox::scrub).
    pub(super) fn scrub_idle(&self) -> Option<Verification> {
        let (golden, baseline) = (self.golden()?, self.baseline()?);
        let connected = self.ready().ok()?;
        let findings: Vec<_> = {
            let _kept_from_resets = connected.call();
            match connected.machine.scrub(&step()) {
                Ok(report) => report.findings.into_iter().map(Finding::from).collect(),
                Err(error @ MachineError::Unreadable { .. }) => {
                    let location = Location::State { name: "the machine".to_owned() };
                    vec![Finding::new(Source::Monitor, location, "as captured", error)]
                }
                // It has ended: the next call is told.
                Err(_) => return None,
            }
        };
        if findings.is_empty() {
            return None;
        }
        let exclusive = ExclusiveMachine::take(self, &connected).ok()?;
        if let Err(error) = hold(&connected.machine) {
            warn!(%error, "a machine is not as it was captured, and does not stand still");
        }
        let mismatched = MismatchedBlocks::of(&connected.machine, &golden, &findings);
        let verification = baseline.verify(not_reset(findings, VerificationParts::default()));
        self.halt(exclusive, &connected, &verification, mismatched);
        Some(verification)
    }
}
