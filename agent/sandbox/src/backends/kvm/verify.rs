//! Verified resets of a sandbox, and what they compare with.

use std::sync::Arc;
#[cfg(feature = "testing")]
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use tracing::{debug, warn};
use vmm::{Golden, IntegrityPlan, Strategy};

use super::connected::Connected;
use super::exclusive::{ExclusiveMachine, reset_machine};
use super::faults::Faults;
use super::forensics::{self, MismatchedBlocks};
use super::golden::{GoldenSandbox, capture_failed};
use super::observe::{Observation, QueryTimeouts, VerifyOptions, observe};
use super::{KvmConfig, KvmSandbox, not_available};
use crate::Cause;
use crate::error::SandboxError;
use crate::spec::{Resets, SandboxSpec};
use crate::verify::{Baseline, BaselineError, GoldenFacts, VerifiedReset};

/// For the answers that others are compared with: the first time, a busy host may take its time.
const BASELINE_TIMEOUTS: QueryTimeouts =
    QueryTimeouts { answer: Duration::from_secs(10), silent_after: Duration::from_secs(20) };

impl KvmSandbox {
    /// What machines of the golden state are compared with, once it has been measured.
    pub fn baseline(&self) -> Option<Arc<Baseline>> {
        let inner = self.lock();
        inner.golden.as_ref()?.baseline()
    }

    /// Calls the injector at every [`FaultPoint`](super::FaultPoint) of the verified resets to come.
    #[cfg(feature = "testing")]
    pub fn inject_faults(&self, injector: super::FaultInjector) {
        *self.fault_injector.lock().unwrap_or_else(PoisonError::into_inner) = Some(injector);
    }

    /// Puts a machine back and verifies it. Calls that are under way fail. Afterwards it is ready,
    /// or will never be used again.
    pub(super) fn verify_connected(
        &self,
        connected: &Arc<Connected>,
    ) -> Result<VerifiedReset, SandboxError> {
        let golden = self.golden();
        let (Some(golden), Some(baseline)) = (golden, self.baseline()) else {
            return Err(not_available(
                "the sandbox has nothing to verify against: ask for verified resets, and boot it \
                 again",
            ));
        };
        let exclusive = ExclusiveMachine::take(self, connected)?;
        #[cfg(feature = "testing")]
        let mut injector = self.fault_injector.lock().unwrap_or_else(PoisonError::into_inner);
        #[cfg(feature = "testing")]
        let faults = Faults::of(injector.as_mut());
        #[cfg(not(feature = "testing"))]
        let faults = Faults::none();
        let plan = self.lock().config.integrity;
        let how =
            VerifyOptions { strategy: exclusive.strategy(), plan, timeouts: QueryTimeouts::USUAL };
        let observed = observe(connected, &golden, how, faults);
        #[cfg(feature = "testing")]
        drop(injector);
        let observed = match observed {
            Ok(Observation { residues, .. }) if !residues.is_empty() => {
                warn!(?residues, "another machine takes the place of one that KVM cannot reset");
                self.successor(&exclusive, connected).and_then(|successor| {
                    let observed = observe(&successor, &golden, how, Faults::none())?;
                    Ok((observed, Some(successor)))
                })
            }
            observed => observed.map(|observed| (observed, None)),
        };
        let (Observation { report, evidence, mismatched, .. }, successor) = match observed {
            Ok(observed) => observed,
            Err(error) => {
                self.retire(exclusive, connected, &error);
                return Err(error);
            }
        };
        let verification = baseline.verify(evidence);
        let outcome = report.map(|report| exclusive.outcome(&report));
        if verification.passed() {
            debug!(parts = ?verification.parts, suspicions = ?verification.suspicions, "verified");
            match successor {
                Some(successor) => exclusive.replace_with(successor),
                None => exclusive.end(Ok(())),
            }
        } else {
            let seen = successor.as_ref().unwrap_or(connected);
            self.halt(exclusive, seen, &verification, mismatched);
        }
        Ok(VerifiedReset { outcome, verification })
    }

    /// Another machine of the golden state, for the command that this one executes.
    fn successor(
        &self,
        exclusive: &ExclusiveMachine<'_>,
        connected: &Connected,
    ) -> Result<Connected, SandboxError> {
        let golden = self.lock().golden.clone();
        let golden = golden.ok_or_else(|| not_available("the sandbox has no golden state"))?;
        let successor = golden.fork(|_| exclusive.is_current())?;
        if let Some(command_id) = connected.last_command() {
            successor.begins(&command_id);
        }
        Ok(successor)
    }
}

/// Measures what verified resets compare with, if the configuration wants them and no boot has
/// measured it for this golden state. The machine is golden afterwards, and it is an incident when
/// it was not before.
pub fn prepare(
    sandbox: &KvmSandbox,
    spec: &SandboxSpec,
    config: &KvmConfig,
    golden: &GoldenSandbox,
    connected: &mut Connected,
) -> Result<(), SandboxError> {
    if spec.resets != Resets::Verified {
        return Ok(());
    }
    let begun = Instant::now();
    golden
        .measure_baseline(|| measure(connected, golden.golden(), config.strategy, config.integrity))
        .inspect_err(|error| {
            if matches!(error, SandboxError::NotGolden { .. }) {
                let dump = || forensics::dump(&connected.machine, MismatchedBlocks::default());
                sandbox.report_incident(connected, Cause::NotAsInstalled(error.to_string()), dump);
            }
            connected.machine.shutdown();
        })?;
    connected.report.baseline = begun.elapsed();
    Ok(())
}

/// On a machine that was reset, as every machine will be that is compared with this.
fn measure(
    connected: &Connected,
    golden: &Arc<Golden>,
    strategy: Strategy,
    plan: IntegrityPlan,
) -> Result<Baseline, SandboxError> {
    let failed = |reason: &dyn std::fmt::Display| {
        capture_failed(connected, &format!("measuring what to verify resets against: {reason}"))
    };
    // Hashes every block and page of the golden state, which later checks compare with.
    let disk = golden.disk_root().map_err(|e| failed(&e))?.zip(golden.disk_bytes());
    golden.memory_root().map_err(|e| failed(&e))?;
    let how = VerifyOptions { strategy, plan, timeouts: BASELINE_TIMEOUTS };
    let Observation { evidence, .. } =
        observe(connected, golden, how, Faults::none()).map_err(|e| failed(&e))?;
    let hash = golden.hash().map_err(|e| failed(&e))?;
    let Some((disk_root, disk_bytes)) = disk else { return Err(failed(&"it has no disk")) };
    let facts = GoldenFacts { hash, disk_root, disk_bytes };
    let baseline = Baseline::measured(facts, &evidence).map_err(|error| match error {
        // The image's fault.
        BaselineError::TrivialDisk(_)
        | BaselineError::TrivialGolden(_)
        | BaselineError::Descriptors(_) => failed(&error),
        BaselineError::NoDisk(_)
        | BaselineError::OtherDisk
        | BaselineError::NoDescriptors(_)
        | BaselineError::NotGolden { .. } => SandboxError::NotGolden { reason: error.to_string() },
    })?;
    // The guest has been asked.
    reset_machine(connected, strategy, None)?;
    Ok(baseline)
}
