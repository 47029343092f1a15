//! Runs probes one after another, each within its budget, and cleans up after each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use sandbox::SandboxState;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::info::ProbeInfo;
use crate::latency::milliseconds;
use crate::plan::Plan;
use crate::probe::Probe;
use crate::registry::{Registry, RegistryError};
use crate::report::{ProbeReport, Report, SCHEMA_VERSION, Summary};
use crate::testbed::Testbed;
use crate::verdict::Verdict;

/// What an abandoned probe has to notice that its machines are gone.
const FAREWELL: Duration = Duration::from_secs(5);
/// How often the caller of a run is told that a probe goes on.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What a run tells its caller while it is under way.
#[derive(Debug)]
pub enum Event<'a> {
    /// A probe begins.
    Started(&'a ProbeInfo),
    /// A probe goes on. It does turn `turn` (from 0) of `of`; both are 0 where it does not count.
    Working {
        /// The probe.
        probe: &'a ProbeInfo,
        /// Number of turns that the probe has done.
        turn: u32,
        /// Number of turns that the probe does.
        of: u32,
    },
    /// A probe has ended.
    Ended(&'a ProbeReport),
    /// The sandbox failed for good: the probes that are left are skipped.
    Stopped(&'a str),
}

/// Runs the probes of `registry` that `plan` selects.
///
/// # Errors
///
/// [`RegistryError::Unknown`]: the plan names a probe that the registry does not have. Nothing has
/// run.
pub fn run(
    plan: Plan,
    registry: &Registry,
    mut tell: impl FnMut(Event<'_>),
) -> Result<Report, RegistryError> {
    let probes = registry.select(&plan.selection)?;
    let (total, backend) = (probes.len(), plan.backend.name());
    let testbed = Arc::new(Testbed::new(plan));
    if !testbed.plan().without.is_empty() {
        testbed.note(format!("run without defences: {}", testbed.plan().without.join(", ")));
    }
    let mut reports = Vec::new();
    for probe in probes {
        tell(Event::Started(&probe.info()));
        let report = run_one(&testbed, &probe, &mut tell);
        tell(Event::Ended(&report));
        reports.push(report);
        let clean = testbed.clean_up();
        if let (false, SandboxState::Failed { reason }) = (clean, testbed.state()) {
            tell(Event::Stopped(&reason));
            break;
        }
    }
    let final_sandbox_state = name(&testbed.state()).to_owned();
    testbed.abandon();
    let (latency, notes) = testbed.kept();
    Ok(Report {
        schema_version: SCHEMA_VERSION,
        // Every present time has this form.
        generated_at: OffsetDateTime::from(SystemTime::now()).format(&Rfc3339).unwrap_or_default(),
        backend,
        final_sandbox_state,
        summary: Summary::of(&reports, total),
        probes: reports,
        latency,
        notes,
    })
}

/// Runs a probe on a thread of its own, so that a probe that hangs can be left behind.
fn run_one(
    testbed: &Arc<Testbed>,
    probe: &Arc<dyn Probe>,
    tell: &mut impl FnMut(Event<'_>),
) -> ProbeReport {
    let info = probe.info();
    testbed.progress().set(0, 0);
    let begun = Instant::now();
    let budget = testbed.plan().budget_of(&info);
    let (send, receive) = mpsc::channel();
    let (shared, own) = (Arc::clone(testbed), Arc::clone(probe));
    let started = thread::Builder::new().name(format!("probe {}", info.name)).spawn(move || {
        let _ = send.send(all_steps(&*own, &shared));
    });
    let result = match started {
        Err(error) => Err(error.to_string()),
        Ok(thread) => {
            let mut still_working = || {
                let (turn, of) = testbed.progress().get();
                tell(Event::Working { probe: &info, turn, of });
            };
            let result = match wait(&receive, budget, &mut still_working) {
                Ok(result) => result,
                Err(RecvTimeoutError::Disconnected) => Err("the probe panicked".to_owned()),
                Err(RecvTimeoutError::Timeout) => {
                    testbed.abandon();
                    let _ = receive.recv_timeout(FAREWELL);
                    Err(format!(
                        "it took more than its budget of {budget:?}; give it more with --budget"
                    ))
                }
            };
            // A probe that still runs has no machine any more.
            drop(thread);
            result
        }
    };
    report(&info, testbed.plan().backend.name(), result, begun.elapsed())
}

/// Sets a probe up, runs it, and tears it down, whatever became of the steps before.
fn all_steps(probe: &dyn Probe, testbed: &Testbed) -> Result<Verdict, String> {
    let attack = || {
        probe.set_up(testbed).map_err(|error| format!("its set-up failed: {error}"))?;
        probe.run(testbed).map_err(|error| error.to_string())
    };
    let result = unless_it_panics(attack);
    let torn_down = unless_it_panics(|| {
        probe.tear_down(testbed).map_err(|error| format!("its tear-down failed: {error}"))
    });
    match (result, torn_down) {
        (result, Ok(())) => result,
        (Ok(verdict), Err(wrong)) if verdict.passed => Err(wrong),
        // A breach, or the first error, says more than what followed from it.
        (Ok(verdict), Err(wrong)) => {
            let reason = format!("{}; {wrong}", verdict.reason);
            Ok(Verdict { reason, ..verdict })
        }
        (Err(first), Err(wrong)) => Err(format!("{first}; {wrong}")),
    }
}

fn unless_it_panics<T>(step: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|_| Err("the probe panicked".to_owned()))
}

/// Waits for as long as `budget`, and calls `still_working` every second.
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

fn report(
    probe: &ProbeInfo,
    backend: &str,
    result: Result<Verdict, String>,
    took: Duration,
) -> ProbeReport {
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
        validated_against: format!("validated-{backend}"),
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
    use std::sync::Mutex;

    use super::*;
    use crate::{AttackerClass, Expectation, FnProbe, ProbeError};

    fn testbed(budget: Duration) -> Arc<Testbed> {
        Arc::new(Testbed::new(Plan { budget, ..Plan::for_tests(&[]) }))
    }

    fn probe(run: fn(&Testbed) -> Result<Verdict, ProbeError>) -> Arc<dyn Probe> {
        Arc::new(FnProbe {
            name: "p",
            class: AttackerClass::A3,
            expectation: Expectation::ShouldFail,
            description: "d",
            repeats: false,
            run,
        })
    }

    #[test]
    fn a_probe_that_takes_too_long_is_errored() {
        let endless = probe(|_| {
            loop {
                thread::sleep(Duration::from_secs(1));
            }
        });
        let report = run_one(&testbed(Duration::from_millis(10)), &endless, &mut |_| ());
        assert!(report.errored && !report.passed);
        assert!(report.error_message.unwrap().contains("budget"));
    }

    #[test]
    fn who_waits_is_told_how_far_a_probe_has_come() {
        let slow = probe(|testbed| {
            testbed.progress().set(3, 4);
            thread::sleep(2 * TELL_EVERY);
            Ok(Verdict { passed: true, reason: String::new(), evidence: Value::Null })
        });
        let mut told = Vec::new();
        let mut tell = |event: Event<'_>| {
            if let Event::Working { turn, of, .. } = event {
                told.push((turn, of));
            }
        };
        assert!(run_one(&testbed(Duration::from_secs(600)), &slow, &mut tell).passed);
        assert!(told.contains(&(3, 4)), "{told:?}");
    }

    #[test]
    fn a_probe_that_panics_or_whose_control_fails_is_errored() {
        let budget = Duration::from_secs(30);
        let report = run_one(&testbed(budget), &probe(|_| panic!("on purpose")), &mut |_| ());
        assert!(report.errored && !report.passed);
        let control = probe(|_| Err(ProbeError::Control("c".into())));
        let report = run_one(&testbed(budget), &control, &mut |_| ());
        assert!(report.errored && !report.passed);
    }

    #[test]
    fn without_an_image_nothing_passes() {
        let plan = testbed(Duration::from_secs(30)).plan().clone();
        let plan = Plan { selection: "egress".parse().unwrap(), ..plan };
        let report = run(plan, &Registry::built_in(), |_| ()).unwrap();
        assert_eq!((report.summary.total, report.summary.passed), (1, 0));
        assert!(!report.summary.is_clean());
    }

    #[test]
    fn a_plan_that_names_no_probe_runs_nothing() {
        let plan = Plan { selection: "nonsense".parse().unwrap(), ..Plan::for_tests(&[]) };
        assert!(run(plan, &Registry::built_in(), |_| panic!("something ran")).is_err());
    }

    /// A probe that writes down its steps and fails at one of them.
    struct Steps {
        fails_at: &'static str,
        passes: bool,
        done: Mutex<Vec<&'static str>>,
    }

    impl Steps {
        fn step(&self, name: &'static str) -> Result<(), ProbeError> {
            self.done.lock().unwrap().push(name);
            if self.fails_at == name { Err(ProbeError::Control(name.into())) } else { Ok(()) }
        }
    }

    impl Probe for Steps {
        fn info(&self) -> ProbeInfo {
            probe(|_| unreachable!()).info()
        }

        fn set_up(&self, _: &Testbed) -> Result<(), ProbeError> {
            self.step("set up")
        }

        fn run(&self, _: &Testbed) -> Result<Verdict, ProbeError> {
            self.step("run")?;
            assert_ne!(self.fails_at, "panic");
            Ok(Verdict { passed: self.passes, reason: "r".into(), evidence: Value::Null })
        }

        fn tear_down(&self, _: &Testbed) -> Result<(), ProbeError> {
            self.step("tear down")
        }
    }

    fn steps(fails_at: &'static str, passes: bool) -> (Vec<&'static str>, Result<Verdict, String>) {
        let probe = Steps { fails_at, passes, done: Mutex::default() };
        let result = all_steps(&probe, &testbed(Duration::from_secs(30)));
        (probe.done.into_inner().unwrap(), result)
    }

    #[test]
    fn a_probe_is_torn_down_whatever_became_of_it() {
        let all = ["set up", "run", "tear down"];
        let (done, result) = steps("nothing", true);
        assert_eq!((done.as_slice(), result.unwrap().passed), (all.as_slice(), true));
        for fails_at in ["run", "panic"] {
            let (done, result) = steps(fails_at, true);
            assert_eq!(done, all, "{fails_at}");
            assert!(result.is_err(), "{fails_at}");
        }
        let (done, result) = steps("set up", true);
        assert_eq!(done, ["set up", "tear down"]);
        assert!(result.unwrap_err().contains("set-up"));
    }

    #[test]
    fn a_failed_tear_down_hides_no_breach_and_lets_nothing_pass() {
        let (_, result) = steps("tear down", true);
        assert!(result.unwrap_err().contains("tear-down"));
        let (_, result) = steps("tear down", false);
        let verdict = result.unwrap();
        assert!(!verdict.passed && verdict.reason.starts_with("r; "), "{verdict:?}");
    }
}
