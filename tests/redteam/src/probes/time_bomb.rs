//! A deadline holds, whatever the tool does about it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::{Arena, AttackerClass, Expectation, Guest, Probe, ProbeError, Verdict};
use sandbox::{KvmSandbox, QueryAnswer, QueryKind, Sandbox, SandboxError, StoppedBy, ToolOutcome};

/// What a tool can try.
pub const AS_A_TOOL: Probe = Probe {
    name: "time-bomb",
    class: AttackerClass::RuntimeLimit,
    expectation: Expectation::ShouldFail,
    description: "A tool ignores signals, stops itself, spins on every processor, daemonises, \
                  forks without end, stays in the kernel, or leaves a process with its output",
    repeats: false,
    run: |arena| defuse(arena, Guest::Shipped, BOMBS),
};

/// What is left to somebody who got through all of the guest's own defences.
pub const AS_ROOT: Probe = Probe {
    name: "time-bomb-as-root",
    class: AttackerClass::RuntimeLimit,
    expectation: Expectation::ShouldFail,
    description: "As root and without confinement: the guest program itself is stopped, so only \
                  the host can enforce the deadline",
    repeats: false,
    run: |arena| defuse(arena, Guest::Bare, &[("freeze-init", Fate::EndedByHost)]),
};

/// How a bomb must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// At its deadline, by guest or host.
    Ended,
    /// At its deadline, by the host.
    EndedByHost,
    /// By itself, at once: only what it left behind would have gone on.
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
/// For killed processes to be gone. The kernel ends them one by one.
const BURIAL: Duration = Duration::from_secs(3);
/// Name of every process of an attack.
const PROGRAM: &str = "attack";

fn defuse(arena: &Arena, guest: Guest, bombs: &[(&str, Fate)]) -> Result<Verdict, ProbeError> {
    let sandbox = arena.sandbox(guest)?;
    arena.attack(&sandbox, "attack_hold", json!({"how": "control"}))?;
    let slack = arena.slack(&sandbox)?;
    let enforced = arena.enforced(DEADLINE, slack);
    let mut breaches = Vec::new();
    let mut seen = Vec::new();
    for (how, fate) in bombs {
        let begun = Instant::now();
        let result = arena.run(&sandbox, "attack_hold", json!({"how": how}), enforced);
        let took = begun.elapsed();
        let mut wrong = judge(*fate, &result, took, DEADLINE + slack);
        if guest == Guest::Shipped {
            wrong.extend(left_behind(&sandbox));
        }
        wrong.extend(arena.recover(&sandbox));
        wrong.extend(arena.next_command(&sandbox));
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

fn judge(
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

/// A process that is still there after its tool's end.
fn left_behind(sandbox: &KvmSandbox) -> Option<String> {
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
        let by = |fate, who| judge(fate, &stopped_by(who), second, second).is_empty();
        assert!(by(Fate::Ended, StoppedBy::Guest));
        assert!(by(Fate::Ended, StoppedBy::Host));
        assert!(by(Fate::EndedByHost, StoppedBy::Host));
        assert!(!by(Fate::EndedByHost, StoppedBy::Guest));
        assert!(!by(Fate::Returned, StoppedBy::Guest));
        assert!(!by(Fate::Ended, StoppedBy::NotStarted));
        let late = judge(Fate::Ended, &stopped_by(StoppedBy::Guest), second * 2, second);
        assert_eq!(late.len(), 1);
    }
}
