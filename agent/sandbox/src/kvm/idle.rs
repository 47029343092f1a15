//! Looking at a machine that nobody uses.

use tracing::warn;
use vmm::{IntegrityPlan, MachineError};

use super::KvmSandbox;
use super::alone::{Alone, hold};
use super::observe::as_found;
use super::remains::Exhibits;
use crate::verify::{Finding, Place, Source, Verification, VerificationParts};

/// Read at once: somebody may want the machine at any moment.
const STEP: IntegrityPlan = IntegrityPlan { blocks: 4, pages: 4, copies: 0, deep: false };

impl KvmSandbox {
    /// See [`Sandbox::scrub`](crate::Sandbox::scrub).
    pub(super) fn look_while_idle(&self) -> Option<Verification> {
        let (golden, baseline) = (self.golden()?, self.baseline()?);
        let live = self.ready().ok()?;
        let findings: Vec<_> = {
            let _kept_from_resets = live.call();
            match live.machine.scrub(&STEP) {
                Ok(report) => report.findings.into_iter().map(Finding::from).collect(),
                Err(error @ MachineError::Unreadable { .. }) => {
                    let place = Place::State { name: "the machine".to_owned() };
                    vec![Finding::new(Source::Vmm, place, "as captured", error)]
                }
                // It has ended: whoever uses it next is told.
                Err(_) => return None,
            }
        };
        if findings.is_empty() {
            return None;
        }
        let alone = Alone::with(self, &live).ok()?;
        if let Err(error) = hold(&live.machine) {
            warn!(%error, "a machine is not as it was captured, and does not stand still");
        }
        let exhibits = Exhibits::of(&live.machine, &golden, &findings);
        let verification = baseline.judge(as_found(findings, VerificationParts::default()));
        self.halt(alone, &live, &verification, exhibits);
        Some(verification)
    }
}
