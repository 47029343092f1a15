//! Runs probes one after another, each within its budget, and cleans up after each.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::latency::milliseconds;
use super::report::{ProbeReport, Report, SCHEMA_VERSION, Summary};
use super::{Arena, Probe, ProbeError, Selection, Verdict};
use sandbox::{SandboxConfig, SandboxState};

/// What probes ran on.
const VALIDATED_AGAINST: &str = "validated-kvm";
/// More time for a battery, per iteration: a cold boot on a slow host.
const PER_ITERATION: Duration = Duration::from_secs(2);
/// For an abandoned probe to notice that its machines are gone.
const FAREWELL: Duration = Duration::from_secs(5);
/// How often who waits for a probe is told that it goes on.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Defences of the guest program.
pub const GUEST_DEFENCES: [&str; 6] = ["bytes", "filter", "kill", "limits", "mounts", "privileges"];

/// Defences on the host's side, and what a host without them does in the probes:
/// `anchors` believes an audit log that agrees with itself, `deadline` waits for longer than it
/// was told, `digests` takes an image as it is on disk, `isolation` shares a file and a port with
/// its guests, `journal` loses its journal when it dies, `nonces` loses its nonces then, `protocol`
/// believes the first result that a guest sends, `recovery` goes on with a machine that has ended,
/// `reset` does not put machines back, `signatures` checks one text and reads another,
/// `verification` looks at nothing after a reset.
pub const HOST_DEFENCES: [&str; 11] = [
    "anchors",
    "deadline",
    "digests",
    "isolation",
    "journal",
    "nonces",
    "protocol",
    "recovery",
    "reset",
    "signatures",
    "verification",
];

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The sandbox of the attack image.
    pub sandbox: SandboxConfig,
    /// Which probes.
    pub selection: Selection,
    /// How often batteries repeat what they measure.
    pub iterations: u32,
    /// How many machines run side by side where that matters.
    pub machines: u32,
    /// What a probe may take; a battery has more, by its iterations.
    pub budget: Duration,
    /// Whether medians are held to their limits. On a host that is emulated they mean nothing.
    pub gates: bool,
    /// Defences to leave out, to see probes fail: [`GUEST_DEFENCES`] and [`HOST_DEFENCES`].
    pub without: Vec<String>,
}

impl Plan {
    /// Whether a defence is left out.
    pub fn leaves_out(&self, defence: &str) -> bool {
        self.without.iter().any(|other| other == defence)
    }

    /// Those of the guest program that are left out, as its command line wants them.
    pub(super) fn guest_without(&self) -> String {
        let own: Vec<&str> = self
            .without
            .iter()
            .map(String::as_str)
            .filter(|n| !HOST_DEFENCES.contains(n))
            .collect();
        own.join(",")
    }

    /// Of everything, once, on an image that is not there.
    #[cfg(test)]
    pub(super) fn for_tests(without: &[&str]) -> Self {
        Self {
            sandbox: SandboxConfig::new(sandbox::ImageSource::directory("/nonexistent")),
            selection: Selection::All,
            iterations: 1,
            machines: 2,
            budget: Duration::from_secs(30),
            gates: true,
            without: without.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    /// What an attack may take.
    pub fn deadline(&self) -> Duration {
        self.budget.min(Duration::from_secs(30))
    }

    fn budget_of(&self, probe: &Probe) -> Duration {
        let more = if probe.repeats { PER_ITERATION * self.iterations } else { Duration::ZERO };
        self.budget + more
    }
}

/// What a run tells while it is under way.
#[derive(Debug)]
pub enum Event<'a> {
    /// A probe begins.
    Started(&'a Probe),
    /// It goes on, and does turn `turn` (from 0) of `of`; of none where it does not count them.
    Working {
        /// The probe.
        probe: &'a Probe,
        /// How many turns it has done.
        turn: u32,
        /// How many there are.
        of: u32,
    },
    /// It has ended.
    Ended(&'a ProbeReport),
    /// The sandbox failed for good: what is left is skipped.
    Stopped(&'a str),
}

/// Runs the battery.
pub fn run(plan: Plan, mut tell: impl FnMut(Event<'_>)) -> Report {
    let probes = plan.selection.probes();
    let total = probes.len();
    let arena = Arc::new(Arena::new(plan));
    if !arena.plan().without.is_empty() {
        arena.note(format!("run without defences: {}", arena.plan().without.join(", ")));
    }
    let mut reports = Vec::new();
    for probe in probes {
        tell(Event::Started(&probe));
        let report = run_one(&arena, &probe, &mut tell);
        tell(Event::Ended(&report));
        reports.push(report);
        let clean = arena.clean_up();
        if let (false, SandboxState::Failed { reason }) = (clean, arena.state()) {
            tell(Event::Stopped(&reason));
            break;
        }
    }
    let final_sandbox_state = name(&arena.state()).to_owned();
    arena.abandon();
    let (latency, notes) = arena.kept();
    Report {
        schema_version: SCHEMA_VERSION,
        // Every present time has this form.
        generated_at: OffsetDateTime::from(SystemTime::now()).format(&Rfc3339).unwrap_or_default(),
        backend: "kvm",
        final_sandbox_state,
        summary: Summary::of(&reports, total),
        probes: reports,
        latency,
        notes,
    }
}

/// Runs a probe on a thread of its own, so that one that hangs can be left behind.
fn run_one(arena: &Arc<Arena>, probe: &Probe, tell: &mut impl FnMut(Event<'_>)) -> ProbeReport {
    arena.turns().set(0, 0);
    let begun = Instant::now();
    let budget = arena.plan().budget_of(probe);
    let (send, receive) = mpsc::channel();
    let (shared, body) = (Arc::clone(arena), probe.run);
    let started = thread::Builder::new().name(format!("probe {}", probe.name)).spawn(move || {
        let _ = send.send(body(&shared));
    });
    let result = match started {
        Err(error) => Err(error.to_string()),
        Ok(thread) => {
            let mut still_working = || {
                let (turn, of) = arena.turns().get();
                tell(Event::Working { probe, turn, of });
            };
            let result = match wait(&receive, budget, &mut still_working) {
                Ok(result) => result.map_err(|error: ProbeError| error.to_string()),
                Err(RecvTimeoutError::Disconnected) => Err("the probe panicked".to_owned()),
                Err(RecvTimeoutError::Timeout) => {
                    arena.abandon();
                    let _ = receive.recv_timeout(FAREWELL);
                    Err(format!(
                        "it took more than its budget of {budget:?}; give it more with \
                                 --budget"
                    ))
                }
            };
            // One that still runs has no machine any more.
            drop(thread);
            result
        }
    };
    report(probe, result, begun.elapsed())
}

/// Waits for as long as `budget`, and says every second that it does.
fn wait<T>(
    receive: &Receiver<T>,
    budget: Duration,
    still_working: &mut impl FnMut(),
) -> Result<T, RecvTimeoutError> {
    let begun = Instant::now();
    loop {
        let left = budget.saturating_sub(begun.elapsed());
        match receive.recv_timeout(left.min(TELL_EVERY)) {
            Err(RecvTimeoutError::Timeout) if !left.is_zero() => still_working(),
            result => return result,
        }
    }
}

fn report(probe: &Probe, result: Result<Verdict, String>, took: Duration) -> ProbeReport {
    let (verdict, error_message) = match result {
        Ok(verdict) => (verdict, None),
        Err(error) => {
            let nothing =
                Verdict { passed: false, reason: "no verdict".into(), evidence: Value::Null };
            (nothing, Some(error))
        }
    };
    ProbeReport {
        name: probe.name.to_owned(),
        attacker_class: probe.class,
        expectation: probe.expectation,
        validated_against: VALIDATED_AGAINST,
        description: probe.description.to_owned(),
        passed: verdict.passed && error_message.is_none(),
        reason: verdict.reason,
        duration_ms: milliseconds(took),
        errored: error_message.is_some(),
        error_message,
        evidence: verdict.evidence,
    }
}

fn name(state: &SandboxState) -> &'static str {
    match state {
        SandboxState::NotBooted => "not_booted",
        SandboxState::Booting => "booting",
        SandboxState::Ready => "ready",
        SandboxState::Resetting => "resetting",
        SandboxState::Failed { .. } => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AttackerClass, Expectation};

    fn arena(budget: Duration) -> Arc<Arena> {
        Arc::new(Arena::new(Plan { budget, ..Plan::for_tests(&[]) }))
    }

    fn probe(run: fn(&Arena) -> Result<Verdict, ProbeError>) -> Probe {
        Probe {
            name: "p",
            class: AttackerClass::A3,
            expectation: Expectation::ShouldFail,
            description: "d",
            repeats: false,
            run,
        }
    }

    #[test]
    fn a_probe_that_takes_too_long_is_errored() {
        let endless = probe(|_| {
            loop {
                thread::sleep(Duration::from_secs(1));
            }
        });
        let report = run_one(&arena(Duration::from_millis(10)), &endless, &mut |_| ());
        assert!(report.errored && !report.passed);
        assert!(report.error_message.unwrap().contains("budget"));
    }

    #[test]
    fn who_waits_is_told_how_far_a_probe_has_come() {
        let slow = probe(|arena| {
            arena.turns().set(3, 4);
            thread::sleep(2 * TELL_EVERY);
            Ok(Verdict { passed: true, reason: String::new(), evidence: Value::Null })
        });
        let mut told = Vec::new();
        let mut tell = |event: Event<'_>| {
            if let Event::Working { turn, of, .. } = event {
                told.push((turn, of));
            }
        };
        assert!(run_one(&arena(Duration::from_secs(600)), &slow, &mut tell).passed);
        assert!(told.contains(&(3, 4)), "{told:?}");
    }

    #[test]
    fn a_probe_that_panics_or_whose_control_fails_is_errored() {
        let budget = Duration::from_secs(30);
        let report = run_one(&arena(budget), &probe(|_| panic!("on purpose")), &mut |_| ());
        assert!(report.errored && !report.passed);
        let control = probe(|_| Err(ProbeError::Control("c".into())));
        let report = run_one(&arena(budget), &control, &mut |_| ());
        assert!(report.errored && !report.passed);
    }

    #[test]
    fn without_an_image_nothing_passes() {
        let plan = arena(Duration::from_secs(30)).plan().clone();
        let plan = Plan { selection: "egress".parse().unwrap(), ..plan };
        let report = run(plan, |_| ());
        assert_eq!((report.summary.total, report.summary.passed), (1, 0));
        assert!(!report.summary.is_clean());
    }
}
