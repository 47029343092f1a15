//! What the three sources say about a machine that has just been put back.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use guest::wire::QueryKind;
use tracing::{debug, error};
use vmm::{Golden, Machine, MachineState, MpState, ResetReport, Strategy};

use super::alone::{Alone, put_back};
use super::golden::{GoldenSandbox, capture_failed};
use super::live::Live;
use super::{KvmSandbox, SandboxConfig, not_available};
use crate::sandbox::channel::ChannelError;
use crate::sandbox::error::SandboxError;
use crate::sandbox::verify::{
    Baseline, Descriptors, Evidence, GoldenFacts, RunState, VerificationParts, VerifiedReset,
};
use crate::sandbox::{QueryAnswer, query};

/// For the count that others are compared with: the first time, a busy host may take its time.
const BASELINE_LIMIT: Duration = Duration::from_secs(10);
/// Most differences that are told one by one.
const TOLD: usize = 20;
/// Most characters of something the guest had a say in.
const QUOTED: usize = 300;

/// A moment of a verified reset.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The machine has been put back and stands still. Nobody has looked at it.
    PutBack,
    /// It runs again.
    Running,
    /// The guest is about to be asked.
    Asking,
    /// The guest has answered or not.
    Asked,
}

/// Does to a machine what an attacker on the host would do.
#[doc(hidden)]
pub type Meddler = Box<dyn FnMut(Moment, &Machine) + Send>;

impl KvmSandbox {
    /// What machines of the golden state are compared with, once it has been measured.
    pub fn baseline(&self) -> Option<Arc<Baseline>> {
        let inner = self.lock();
        inner.expected.clone().or_else(|| inner.golden.as_ref()?.baseline())
    }

    /// Compares with something else than what was measured: for tests.
    #[doc(hidden)]
    pub fn expect(&self, baseline: Baseline) {
        self.lock().expected = Some(Arc::new(baseline));
    }

    /// Calls somebody at every moment of the verified resets to come: for tests.
    #[doc(hidden)]
    pub fn let_meddle(&self, meddler: Meddler) {
        *self.meddler.lock().unwrap_or_else(PoisonError::into_inner) = Some(meddler);
    }

    /// Puts a machine back and verifies it. Calls that are under way fail. Afterwards it is ready,
    /// or will never be used again.
    pub(super) fn rewind_and_verify(
        &self,
        live: &Arc<Live>,
    ) -> Result<VerifiedReset, SandboxError> {
        let golden = self.golden();
        let (Some(golden), Some(baseline)) = (golden, self.baseline()) else {
            return Err(not_available(
                "the sandbox has nothing to verify against: set `verify` and a reset strategy, and \
                 boot it again",
            ));
        };
        let alone = Alone::with(self, live)?;
        let mut meddler = self.meddler.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = query::limit(QueryKind::OpenFdCount);
        let observed = observe(live, &golden, alone.strategy(), limit, |moment, machine| {
            if let Some(meddler) = meddler.as_mut() {
                meddler(moment, machine);
            }
        });
        drop(meddler);
        let (report, evidence) = match observed {
            Ok(observed) => observed,
            Err(error) => {
                alone.end(Err(&error.to_string()));
                return Err(error);
            }
        };
        let verification = baseline.judge(evidence);
        let outcome = alone.outcome(report);
        match verification.failure() {
            None => {
                debug!(parts = ?verification.parts, "verified");
                alone.end(Ok(()));
            }
            Some(reason) => {
                error!(?verification, "a machine did not pass its verification");
                alone.end(Err(&reason));
            }
        }
        Ok(VerifiedReset { outcome, verification })
    }
}

/// Measures what verified resets compare with, if the configuration wants them and nobody has
/// measured it for this golden state. The machine is golden afterwards.
pub fn prepare(
    config: &SandboxConfig,
    golden: &GoldenSandbox,
    live: &mut Live,
) -> Result<(), SandboxError> {
    let Some(strategy) = config.strategy.filter(|_| config.verify) else { return Ok(()) };
    let begun = Instant::now();
    golden
        .measure_baseline(|| measure(live, golden.golden(), strategy))
        .inspect_err(|_| live.machine.shutdown())?;
    live.report.baseline = begun.elapsed();
    Ok(())
}

/// On a machine that was put back, as every machine will be that is compared with this.
fn measure(live: &Live, golden: &Golden, strategy: Strategy) -> Result<Baseline, SandboxError> {
    let failed = |reason: &dyn std::fmt::Display| {
        capture_failed(live, &format!("measuring what to verify resets against: {reason}"))
    };
    let (_, evidence) =
        observe(live, golden, strategy, BASELINE_LIMIT, |_, _| ()).map_err(|e| failed(&e))?;
    let hash = golden.hash().map_err(|e| failed(&e))?;
    let disk = golden.disk_sha256().map_err(|e| failed(&e))?.zip(golden.disk_bytes());
    let Some((disk_hash, disk_bytes)) = disk else { return Err(failed(&"it has no disk")) };
    let facts = GoldenFacts { hash, disk_hash, disk_bytes };
    let baseline = Baseline::measured(facts, &evidence).map_err(|e| failed(&e))?;
    // The guest has been asked.
    put_back(live, strategy, None)?;
    Ok(baseline)
}

/// Puts the machine back and hears every source; the guest has until `limit` to answer. Nobody else
/// may use the machine.
fn observe(
    live: &Live,
    golden: &Golden,
    strategy: Strategy,
    limit: Duration,
    mut moment: impl FnMut(Moment, &Machine),
) -> Result<(ResetReport, Evidence), SandboxError> {
    let mut parts = VerificationParts::default();
    let mut reset_at = SystemTime::now();
    let (mut differences, mut disk) = (Vec::new(), Err("nobody looked".to_owned()));
    let mut inspect = |machine: &Machine| {
        reset_at = SystemTime::now();
        moment(Moment::PutBack, machine);
        let begun = Instant::now();
        // First: clocks run on.
        differences = state_differences(machine);
        parts.vmm = begun.elapsed();
        let begun = Instant::now();
        disk = match machine.disk_sha256() {
            Ok(Some(hash)) => Ok(hash),
            Ok(None) => Err("there is none".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        parts.disk = begun.elapsed();
        Ok(())
    };
    let report = put_back(live, strategy, Some(&mut inspect))?;

    let machine = &live.machine;
    moment(Moment::Running, machine);
    let begun = Instant::now();
    let mut run_state = read_run_state(machine, golden);
    parts.vmm += begun.elapsed();
    let descriptors = if run_state == RunState::Running {
        moment(Moment::Asking, machine);
        let begun = Instant::now();
        let descriptors = count_descriptors(live, limit);
        parts.guest = begun.elapsed();
        moment(Moment::Asked, machine);
        descriptors
    } else {
        Descriptors::Unusable(format!("a machine that is {run_state} cannot be asked"))
    };
    if !matches!(descriptors, Descriptors::Count(_)) && run_state == RunState::Running {
        // Silence may be that of a machine that was stopped.
        run_state = read_run_state(machine, golden);
    }
    Ok((report, Evidence { reset_at, disk, descriptors, run_state, differences, parts }))
}

/// What KVM and the devices hold that is not as it was captured. The machine must stand still.
fn state_differences(machine: &Machine) -> Vec<String> {
    match machine.state_differences() {
        Ok(differences) => {
            let mut told: Vec<_> =
                differences.0.iter().take(TOLD).map(ToString::to_string).collect();
            if let Some(more) = differences.0.len().checked_sub(TOLD + 1) {
                told.push(format!("and {} more", more + 1));
            }
            told
        }
        Err(error) => vec![format!("its state cannot be read back: {error}")],
    }
}

/// What KVM says the machine is doing, beside what it did in its golden state.
fn read_run_state(machine: &Machine, golden: &Golden) -> RunState {
    match machine.state() {
        Ok(MachineState::Running(vcpus)) => {
            let then = golden.run_states();
            let as_then = then.len() == vcpus.len()
                && then.iter().zip(&vcpus).all(|(then, now)| fits(*then, now.mp_state));
            if as_then { RunState::Running } else { RunState::Error }
        }
        Ok(MachineState::Paused(_)) => RunState::Paused,
        Ok(MachineState::Stopped(_)) => RunState::Stopped,
        Ok(MachineState::Created | MachineState::Poisoned(_)) | Err(_) => RunState::Error,
    }
}

/// A processor that waited may have been woken since; one that was never started may not.
fn fits(then: MpState, now: MpState) -> bool {
    let started = |state| matches!(state, MpState::Runnable | MpState::Halted);
    then == now || started(then) && started(now)
}

fn count_descriptors(live: &Live, limit: Duration) -> Descriptors {
    match live.query(QueryKind::OpenFdCount, limit) {
        Ok(QueryAnswer::OpenFdCount { open_fd_count, .. }) => Descriptors::Count(open_fd_count),
        Ok(_) => Descriptors::Unusable("it answered another question".to_owned()),
        Err(
            ChannelError::TimedOut { .. }
            | ChannelError::Stalled { .. }
            | ChannelError::WriteStalled { .. },
        ) => Descriptors::Silent,
        Err(error) => Descriptors::Unusable(error.to_string().chars().take(QUOTED).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_must_do_what_it_did() {
        use MpState::*;
        for (then, now) in [(Halted, Halted), (Halted, Runnable), (Runnable, Halted)] {
            assert!(fits(then, now));
        }
        assert!(fits(Uninitialized, Uninitialized));
        for (then, now) in [
            (Halted, Uninitialized),
            (Uninitialized, Runnable),
            (Halted, Starting),
            (Halted, Other(9)),
        ] {
            assert!(!fits(then, now), "{then:?}, {now:?}");
        }
    }
}
