//! A deadline holds, whatever the tool does about it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{AttackerClass, Expectation, FnProbe, Guest, ProbeError, Testbed, Verdict};
use sandbox::{QueryAnswer, QueryKind, Sandbox, SandboxError, StoppedBy, ToolOutcome};

/// A tool tries to outlive its deadline.
pub const AS_A_TOOL: FnProbe = FnProbe {
    name: "time-bomb",
    class: AttackerClass::RuntimeLimit,
    expectation: Expectation::ShouldFail,
    description: "A tool ignores signals, stops itself, spins on every processor, daemonises, \
                  forks without end, stays in the kernel, or leaves a process with its output",
    repeats: false,
    run: |testbed| defuse(testbed, Guest::Shipped, BOMBS),
};

/// An attacker who is past all of the guest's own defences tries to outlive a deadline.
pub const AS_ROOT: FnProbe = FnProbe {
    name: "time-bomb-as-root",
    class: AttackerClass::RuntimeLimit,
    expectation: Expectation::ShouldFail,
    description: "As root and without confinement: the guest program itself is stopped, so only \
                  the host can enforce the deadline",
    repeats: false,
    run: |testbed| defuse(testbed, Guest::Bare, &[("freeze-init", Fate::EndedByHost)]),
};

/// How a bomb must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Guest or host ends it at its deadline.
    Ended,
    /// The host ends it at its deadline.
    EndedByHost,
    /// It ends by itself, at once; only what it left behind would go on.
    Returned,
}

const BOMBS: &[(&str, Fate)] = &[
    ("ignores-signals", Fate::Ended),
    ("stopped", Fate::Ended),
    ("spins", Fate::Ended),
    ("daemon", Fate::Ended),
    ("chain", Fate::Ended),
    ("kernel", Fate::Ended),
    ("grandchild", Fate::Returned),
];
/// Deadline of each bomb.
const DEADLINE: Duration = Duration::from_secs(1);
/// How long killed processes may take to be gone: the kernel ends them one by one.
const BURIAL: Duration = Duration::from_secs(3);
/// Name of every process of an attack.
const PROGRAM: &str = "attack";

fn defuse(testbed: &Testbed, guest: Guest, bombs: &[(&str, Fate)]) -> Result<Verdict, ProbeError> {
    let sandbox = testbed.sandbox(guest)?;
    testbed.attack(&*sandbox, "attack_hold", json!({"how": "control"}))?;
    let slack = testbed.slack(&*sandbox)?;
    let enforced = testbed.enforced(DEADLINE, slack);
    let mut breaches = Vec::new();
    let mut seen = Vec::new();
    for (how, fate) in bombs {
        let begun = Instant::now();
        let result = testbed.run(&*sandbox, "attack_hold", json!({"how": how}), enforced);
        let took = begun.elapsed();
        let mut wrong = verdict_on(*fate, &result, took, DEADLINE + slack);
        if guest == Guest::Shipped {
            wrong.extend(left_behind(&*sandbox));
        }
        wrong.extend(testbed.recover(&*sandbox));
        wrong.extend(testbed.next_command(&*sandbox));
        seen.push(json!({
            "bomb": how,
            "took_ms": took.as_millis() as u64,
            "ended": told(&result),
        }));
        breaches.extend(wrong.into_iter().map(|wrong| format!("{how}: {wrong}")));
    }
    let held = format!("{} bombs ended in time and left nothing", seen.len());
    let allowed = (DEADLINE + slack).as_millis() as u64;
    let evidence = json!({"deadline_ms": DEADLINE.as_millis() as u64, "allowed_ms": allowed,
        "bombs": seen});
    Ok(Verdict::of(&breaches, held, evidence))
}

fn verdict_on(
    fate: Fate,
    result: &Result<ToolOutcome, SandboxError>,
    took: Duration,
    allowed: Duration,
) -> Vec<String> {
    let mut breaches = Vec::new();
    let ended = match result {
        Err(SandboxError::ToolTimeout { stopped_by: StoppedBy::Host, .. }) => {
            fate != Fate::Returned
        }
        Err(SandboxError::ToolTimeout { stopped_by: StoppedBy::Guest, .. }) => fate == Fate::Ended,
        Ok(outcome) => fate == Fate::Returned && outcome.exit_code == 0,
        Err(_) => false,
    };
    if !ended {
        breaches.push(format!("it ended otherwise than by {fate:?}: {}", told(result)));
    }
    if took > allowed {
        breaches.push(format!("it took {took:?}, more than {allowed:?}"));
    }
    breaches
}

fn told(result: &Result<ToolOutcome, SandboxError>) -> Value {
    match result {
        Ok(outcome) => json!(format!("exit code {}", outcome.exit_code)),
        Err(error) => json!(error.to_string()),
    }
}

/// The breach when a process is still there after the end of its tool.
fn left_behind(sandbox: &dyn Sandbox) -> Option<String> {
    let until = Instant::now() + BURIAL;
    loop {
        let left = match sandbox.query(QueryKind::ProcessList) {
            Ok(QueryAnswer::ProcessList(processes)) => {
                processes.iter().filter(|process| process.name == PROGRAM).count()
            }
            Ok(_) => return Some("the guest answered another question".to_owned()),
            Err(error) => return Some(format!("the guest does not say what runs: {error}")),
        };
        if left == 0 {
            return None;
        }
        if Instant::now() > until {
            return Some(format!("{left} of its processes outlived it"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stopped_by(stopped_by: StoppedBy) -> Result<ToolOutcome, SandboxError> {
        Err(SandboxError::ToolTimeout { deadline_ms: 1, stopped_by, partial: Box::default() })
    }

    #[test]
    fn ends_too_late_or_by_others_fail() {
        let second = Duration::from_secs(1);
        let by = |fate, who| verdict_on(fate, &stopped_by(who), second, second).is_empty();
        assert!(by(Fate::Ended, StoppedBy::Guest));
        assert!(by(Fate::Ended, StoppedBy::Host));
        assert!(by(Fate::EndedByHost, StoppedBy::Host));
        assert!(!by(Fate::EndedByHost, StoppedBy::Guest));
        assert!(!by(Fate::Returned, StoppedBy::Guest));
        assert!(!by(Fate::Ended, StoppedBy::NotStarted));
        let late = verdict_on(Fate::Ended, &stopped_by(StoppedBy::Guest), second * 2, second);
        assert_eq!(late.len(), 1);
    }
}
