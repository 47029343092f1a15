//! Resetting a machine, and collecting what every source says about it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use guest::wire::QueryKind;
use tracing::debug;
use vmm::{
    Golden, IntegrityParts, IntegrityPlan, IntegrityReport, Machine, MachineError, MachineState,
    MpState, ResetReport, Strategy,
};

use super::connected::Connected;
use super::exclusive::{hold, reset_and_check, reset_failed, reset_machine};
use super::faults::{FaultPoint, Faults};
use super::forensics::MismatchedBlocks;
use crate::QueryAnswer;
use crate::channel::ChannelError;
use crate::error::SandboxError;
use crate::verify::{
    Descriptors, Evidence, Finding, GuestInventory, Location, RunState, Source, VerificationParts,
};

/// Since the reset was complete: a guest that has not answered by then is silent. The protocol calls
/// it `T_settling`.
pub const SILENT_AFTER: Duration = Duration::from_secs(5);
/// Between a question without an answer and the one time it is asked again.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Most characters of something the guest had a say in.
const QUOTED: usize = 300;
/// All that a guest is asked after a reset, in one go: each time it wakes up costs more than an
/// answer.
pub const QUESTIONS: [QueryKind; 3] =
    [QueryKind::OpenFdCount, QueryKind::ProcessList, QueryKind::MemUsage];

/// How long the guest has.
#[derive(Debug, Clone, Copy)]
pub struct QueryTimeouts {
    /// For the first answer.
    pub answer: Duration,
    /// Since the reset was complete, for the answer to the second question.
    pub silent_after: Duration,
}

impl QueryTimeouts {
    /// Patience after each command.
    pub const USUAL: Self = Self { answer: Duration::from_secs(1), silent_after: SILENT_AFTER };
}

/// How a machine is reset and looked at.
#[derive(Debug, Clone, Copy)]
pub struct VerifyOptions {
    pub strategy: Strategy,
    /// How much of what the command did not touch is read again.
    pub plan: IntegrityPlan,
    pub timeouts: QueryTimeouts,
}

/// What came of it.
pub struct Observation {
    /// How the reset went; `None` when there was none.
    pub report: Option<ResetReport>,
    pub evidence: Evidence,
    /// What KVM carried past the reset, and no tampering: the machine is to be replaced. Its guest was
    /// not asked then, and the evidence is worth nothing.
    pub residues: Vec<Finding>,
    /// Blocks and pages that differ, copied while the machine stood still.
    pub mismatched: MismatchedBlocks,
}

/// Puts the machine back and asks every source. No other caller may use the machine. A machine that
/// has something to hide before its reset is not reset: it stands still as it was found.
pub fn observe(
    connected: &Connected,
    golden: &Arc<Golden>,
    how: VerifyOptions,
    mut faults: Faults<'_>,
) -> Result<Observation, SandboxError> {
    let machine = &connected.machine;
    let mut parts = VerificationParts::default();
    hold(machine).map_err(|error| reset_failed(&error))?;
    faults.at(FaultPoint::Held, machine);
    let begun = Instant::now();
    let differences = before_reset(machine)?;
    parts.before = begun.elapsed();
    if !differences.is_empty() {
        let mismatched = MismatchedBlocks::of(machine, golden, &differences);
        return Ok(Observation {
            report: None,
            evidence: not_reset(differences, parts),
            residues: Vec::new(),
            mismatched,
        });
    }

    let (wall, begun) = (SystemTime::now(), Instant::now());
    let mut looked = HostChecks::default();
    let report = reset_and_inspect(connected, golden, how, &mut faults, &mut looked)?;
    let took = report.parts.total();
    let HostChecks { differences, residues, disk, mismatched, took: parts_of_look } = looked;
    parts = VerificationParts { before: parts.before, ..parts_of_look };
    if differences.is_empty() && !residues.is_empty() {
        let evidence = not_reset(differences, parts);
        return Ok(Observation { report: Some(report), evidence, residues, mismatched });
    }

    faults.at(FaultPoint::Running, machine);
    let clean = differences.is_empty();
    let reset_at = begun + took;
    let GuestReport { answers, run_state } =
        ask_guest(connected, golden, how.timeouts, reset_at, clean, &mut faults, &mut parts);
    let evidence = Evidence {
        reset_at: wall + took,
        disk,
        descriptors: answers.descriptors,
        inventory: answers.inventory,
        run_state,
        differences,
        suspicions: answers.odd,
        parts,
    };
    Ok(Observation { report: Some(report), evidence, residues, mismatched })
}

/// What was seen of a machine that was reset and had not run yet.
struct HostChecks {
    differences: Vec<Finding>,
    residues: Vec<Finding>,
    disk: Result<[u8; 32], String>,
    mismatched: MismatchedBlocks,
    took: VerificationParts,
}

impl Default for HostChecks {
    fn default() -> Self {
        Self {
            differences: Vec::new(),
            residues: Vec::new(),
            disk: Err("it was not looked at".to_owned()),
            mismatched: MismatchedBlocks::default(),
            took: VerificationParts::default(),
        }
    }
}

impl HostChecks {
    fn take(
        &mut self,
        machine: &Machine,
        golden: &Arc<Golden>,
        check: Result<IntegrityReport, MachineError>,
    ) {
        match check {
            Ok(report) => {
                let IntegrityParts { state: monitor, memory, disk, .. } = report.took;
                self.took = VerificationParts { disk, monitor, memory, ..self.took };
                self.disk = report.disk_root.ok_or_else(|| "there is none".to_owned());
                self.differences = report.findings.into_iter().map(Finding::from).collect();
                self.residues = report.residues.into_iter().map(Finding::from).collect();
            }
            Err(error) => {
                let location = Location::State { name: "the machine".to_owned() };
                let is = format!("not readable: {error}");
                self.differences = vec![Finding::new(Source::Monitor, location, "as captured", is)];
                self.disk = Err(error.to_string());
            }
        }
        self.mismatched = MismatchedBlocks::of(machine, golden, &self.differences);
    }
}

/// Reset and check are one step, unless a fault is to be injected between the two.
fn reset_and_inspect(
    connected: &Connected,
    golden: &Arc<Golden>,
    how: VerifyOptions,
    faults: &mut Faults<'_>,
    looked: &mut HostChecks,
) -> Result<ResetReport, SandboxError> {
    let VerifyOptions { strategy, plan, .. } = how;
    if !faults.is_armed() {
        return reset_and_check(connected, strategy, &plan, |machine, check| {
            looked.take(machine, golden, check);
        });
    }
    let mut inspect = |machine: &Machine| {
        faults.at(FaultPoint::Reset, machine);
        looked.take(machine, golden, machine.check_after_reset(&plan));
        Ok(())
    };
    reset_machine(connected, strategy, Some(&mut inspect))
}

/// What the guest said, and what KVM said of its machine then.
struct GuestReport {
    answers: Answers,
    run_state: RunState,
}

/// Asks the guest, and then KVM what the machine is doing: an answer that came does not say that it
/// still runs. `clean`: nothing has disagreed so far, so that silence is worth a second question.
fn ask_guest(
    connected: &Connected,
    golden: &Golden,
    timeouts: QueryTimeouts,
    reset_at: Instant,
    clean: bool,
    faults: &mut Faults<'_>,
    parts: &mut VerificationParts,
) -> GuestReport {
    let machine = &connected.machine;
    let (begun, mut reading) = (Instant::now(), Duration::ZERO);
    let mut read = || {
        let begun = Instant::now();
        let run_state = read_run_state(machine, golden);
        reading += begun.elapsed();
        run_state
    };
    if machine.is_paused() || machine.stop_reason().is_some() {
        return GuestReport { answers: Answers::default(), run_state: read() };
    }
    let mut ask = |until| {
        faults.at(FaultPoint::Asking, machine);
        let answers = ask(connected, until);
        faults.at(FaultPoint::Asked, machine);
        answers
    };
    let mut answers = ask(begun + timeouts.answer);
    let mut run_state = read();
    if clean && answers.descriptors == Descriptors::Silent && run_state == RunState::Running {
        std::thread::sleep(BACK_OFF);
        debug!("the guest is asked again");
        answers = ask(reset_at + timeouts.silent_after);
        run_state = read();
        if matches!(answers.descriptors, Descriptors::Count(_)) {
            let limit = format!("within {:?}", timeouts.answer);
            let is = format!("there after {:.1?}", reset_at.elapsed());
            answers.odd.push(Finding::new(Source::Guest, Location::Answer, limit, is));
        }
    }
    // One that is over cannot have said anything: that is all there is to tell.
    if run_state == RunState::Stopped {
        answers = Answers::default();
    }
    parts.monitor += reading;
    parts.guest = begun.elapsed().saturating_sub(reading);
    GuestReport { answers, run_state }
}

/// The evidence about a machine that was not reset. Its guest is not asked: it is as the command
/// left it.
pub fn not_reset(differences: Vec<Finding>, parts: VerificationParts) -> Evidence {
    Evidence {
        reset_at: SystemTime::now(),
        disk: Err("the machine was not reset".to_owned()),
        descriptors: Descriptors::NotAsked,
        inventory: GuestInventory::default(),
        run_state: RunState::Held,
        differences,
        suspicions: Vec::new(),
        parts,
    }
}

/// What the host has changed since the machine was last golden. The machine must
/// stand still.
pub fn before_reset(machine: &Machine) -> Result<Vec<Finding>, SandboxError> {
    let found = machine.check_before_reset().map_err(|error| reset_failed(&error))?;
    Ok(found.into_iter().map(Finding::from).collect())
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

/// What a guest says of itself.
struct Answers {
    descriptors: Descriptors,
    inventory: GuestInventory,
    odd: Vec<Finding>,
}

impl Default for Answers {
    /// The report of a guest that was not asked.
    fn default() -> Self {
        let (descriptors, inventory) = (Descriptors::NotAsked, GuestInventory::default());
        Self { descriptors, inventory, odd: Vec::new() }
    }
}

/// Everything at once. A guest that counts its descriptors and says nothing else is odd.
fn ask(connected: &Connected, until: Instant) -> Answers {
    let limit = until.saturating_duration_since(Instant::now());
    let (mut answers, mut missing) = (Answers::default(), Vec::new());
    for (kind, answer) in QUESTIONS.into_iter().zip(connected.query_all(&QUESTIONS, limit)) {
        match answer {
            Ok(QueryAnswer::OpenFdCount { open_fd_count, .. }) => {
                answers.descriptors = Descriptors::Count(open_fd_count);
            }
            Ok(QueryAnswer::ProcessList(processes)) => {
                answers.inventory.processes = Some(processes);
            }
            Ok(QueryAnswer::MemUsage { bytes_used, .. }) => {
                answers.inventory.memory_used = Some(bytes_used);
            }
            Err(error) if kind == QueryKind::OpenFdCount => {
                answers.descriptors = without_a_count(&error);
            }
            Err(error) => {
                let is = format!("none to {kind:?}: {error}");
                missing.push(Finding::new(Source::Guest, Location::Answer, "an answer", is));
            }
        }
    }
    if matches!(answers.descriptors, Descriptors::Count(_)) {
        answers.odd = missing;
    }
    answers
}

fn without_a_count(error: &ChannelError) -> Descriptors {
    match error {
        ChannelError::TimedOut { .. }
        | ChannelError::Stalled { .. }
        | ChannelError::WriteStalled { .. } => Descriptors::Silent,
        error => Descriptors::Unusable(error.to_string().chars().take(QUOTED).collect()),
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
