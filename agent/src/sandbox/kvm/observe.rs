//! A machine put back, and every source heard.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use guest::wire::QueryKind;
use tracing::debug;
use vmm::{Golden, IntegrityPlan, Machine, MachineState, MpState, ResetReport, Strategy};

use super::alone::{hold, put_back, reset_failed};
use super::live::Live;
use super::remains::Exhibits;
use crate::sandbox::QueryAnswer;
use crate::sandbox::channel::ChannelError;
use crate::sandbox::error::SandboxError;
use crate::sandbox::query;
use crate::sandbox::verify::{
    Account, Descriptors, Evidence, Finding, Place, RunState, Source, VerificationParts,
};

/// Since the reset was complete: a guest that has not answered by then is silent (`T_settling`).
pub const SETTLING: Duration = Duration::from_secs(5);
/// Between a question without an answer and the one time it is asked again.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Most characters of something the guest had a say in.
const QUOTED: usize = 300;

/// A moment of a verified reset.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The machine stands still as the command left it.
    Held,
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

/// How long the guest has.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the first answer.
    pub answer: Duration,
    /// Since the reset was complete, for the answer to the second question.
    pub settling: Duration,
}

impl Patience {
    /// With every command.
    pub const USUAL: Self = Self { answer: Duration::from_secs(1), settling: SETTLING };
}

/// How a machine is put back and looked at.
#[derive(Debug, Clone, Copy)]
pub struct How {
    pub strategy: Strategy,
    /// How much of what the command did not touch is read again.
    pub plan: IntegrityPlan,
    pub patience: Patience,
}

/// What came of it.
pub struct Observed {
    /// How the reset went; `None` when there was none.
    pub report: Option<ResetReport>,
    pub evidence: Evidence,
    /// Blocks and pages that differ, copied while the machine stood still.
    pub exhibits: Exhibits,
}

/// Puts the machine back and hears every source. Nobody else may use the machine. A machine that
/// has something to hide before its reset is not put back: it stands still as it was found.
pub fn observe(
    live: &Live,
    golden: &Arc<Golden>,
    how: How,
    mut moment: impl FnMut(Moment, &Machine),
) -> Result<Observed, SandboxError> {
    let How { strategy, plan, patience } = how;
    let machine = &live.machine;
    let mut parts = VerificationParts::default();
    hold(machine).map_err(|error| reset_failed(&error))?;
    moment(Moment::Held, machine);
    let begun = Instant::now();
    let differences = before_reset(machine)?;
    parts.before = begun.elapsed();
    if !differences.is_empty() {
        let exhibits = Exhibits::of(machine, golden, &differences);
        return Ok(Observed { report: None, evidence: as_found(differences, parts), exhibits });
    }

    let mut reset_at = SystemTime::now();
    let mut put_back_at = Instant::now();
    let (mut differences, mut disk) = (Vec::new(), Err("nobody looked".to_owned()));
    let mut exhibits = Exhibits::default();
    let mut inspect = |machine: &Machine| {
        (reset_at, put_back_at) = (SystemTime::now(), Instant::now());
        moment(Moment::PutBack, machine);
        (differences, disk) = after_reset(machine, &plan, &mut parts);
        exhibits = Exhibits::of(machine, golden, &differences);
        Ok(())
    };
    let report = put_back(live, strategy, Some(&mut inspect))?;

    moment(Moment::Running, machine);
    let begun = Instant::now();
    let mut run_state = read_run_state(machine, golden);
    parts.vmm += begun.elapsed();
    let (mut suspicions, mut account) = (Vec::new(), Account::default());
    let mut descriptors = Descriptors::NotAsked;
    if run_state == RunState::Running {
        let begun = Instant::now();
        moment(Moment::Asking, machine);
        descriptors = count_descriptors(live, begun + patience.answer);
        moment(Moment::Asked, machine);
        // Silence may be that of a machine that was stopped.
        if !matches!(descriptors, Descriptors::Count(_)) {
            run_state = read_run_state(machine, golden);
        }
        if descriptors == Descriptors::Silent
            && run_state == RunState::Running
            && differences.is_empty()
        {
            std::thread::sleep(BACK_OFF);
            moment(Moment::Asking, machine);
            debug!("the guest is asked again");
            descriptors = count_descriptors(live, put_back_at + patience.settling);
            moment(Moment::Asked, machine);
            run_state = read_run_state(machine, golden);
            if matches!(descriptors, Descriptors::Count(_)) {
                let limit = format!("within {:?}", patience.answer);
                let is = format!("there after {:.1?}", put_back_at.elapsed());
                suspicions.push(Finding::new(Source::Guest, Place::Answer, limit, is));
            }
        }
        if matches!(descriptors, Descriptors::Count(_)) {
            account = give_account(live, patience, &mut suspicions);
            // Somebody may have stopped it since it counted.
            if account.memory_used.is_none() {
                run_state = read_run_state(machine, golden);
            }
        }
        parts.guest = begun.elapsed();
    }
    let evidence = Evidence {
        reset_at,
        disk,
        descriptors,
        account,
        run_state,
        differences,
        suspicions,
        parts,
    };
    Ok(Observed { report: Some(report), evidence, exhibits })
}

/// What is said of a machine that was not put back. Its guest is not asked: it is as the command
/// left it.
pub fn as_found(differences: Vec<Finding>, parts: VerificationParts) -> Evidence {
    Evidence {
        reset_at: SystemTime::now(),
        disk: Err("the machine was not put back".to_owned()),
        descriptors: Descriptors::NotAsked,
        account: Account::default(),
        run_state: RunState::Held,
        differences,
        suspicions: Vec::new(),
        parts,
    }
}

/// What somebody but the guest has changed since the machine was last golden. The machine must
/// stand still.
pub fn before_reset(machine: &Machine) -> Result<Vec<Finding>, SandboxError> {
    let found = machine.check_before_reset().map_err(|error| reset_failed(&error))?;
    Ok(found.into_iter().map(Finding::from).collect())
}

/// What is not as it was captured, and the root of the disk. The machine must stand still.
fn after_reset(
    machine: &Machine,
    plan: &IntegrityPlan,
    parts: &mut VerificationParts,
) -> (Vec<Finding>, Result<[u8; 32], String>) {
    match machine.check_after_reset(plan) {
        Ok(report) => {
            parts.vmm = report.took.state;
            parts.memory = report.took.memory;
            parts.disk = report.took.disk;
            let disk = report.disk_root.ok_or_else(|| "there is none".to_owned());
            (report.findings.into_iter().map(Finding::from).collect(), disk)
        }
        Err(error) => {
            let place = Place::State { name: "the machine".to_owned() };
            let is = format!("not readable: {error}");
            (vec![Finding::new(Source::Vmm, place, "as captured", is)], Err(error.to_string()))
        }
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

fn count_descriptors(live: &Live, until: Instant) -> Descriptors {
    let limit = until.saturating_duration_since(Instant::now());
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

/// Processes and memory. A guest that counted its descriptors and says nothing here is odd.
fn give_account(live: &Live, patience: Patience, suspicions: &mut Vec<Finding>) -> Account {
    let mut account = Account::default();
    for kind in [QueryKind::ProcessList, QueryKind::MemUsage] {
        let limit = patience.answer.max(query::limit(QueryKind::MemUsage));
        match live.query(kind, limit) {
            Ok(QueryAnswer::ProcessList(processes)) => account.processes = Some(processes),
            Ok(QueryAnswer::MemUsage { bytes_used, .. }) => account.memory_used = Some(bytes_used),
            Ok(QueryAnswer::OpenFdCount { .. }) => {}
            Err(error) => {
                let is = format!("none to {kind:?}: {error}");
                suspicions.push(Finding::new(Source::Guest, Place::Answer, "an answer", is));
                break;
            }
        }
    }
    account
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
