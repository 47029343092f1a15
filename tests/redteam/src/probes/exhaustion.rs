//! A tool gets what it may have; the guest program, the agent and the next command keep what they need.

use std::ops::Range;

use serde_json::{Value, json};

use guest::wire::ResultReason;

use crate::attack_log::AttackLog;
use crate::host::HostState;
use crate::{AttackerClass, Expectation, FnProbe, Guest, ProbeError, Testbed, Verdict};
use sandbox::{SandboxError, ToolOutcome};

/// A tool takes each resource until the guest refuses more.
pub const PROBE: FnProbe = FnProbe {
    name: "resource-exhaustion",
    class: AttackerClass::RuntimeLimit,
    expectation: Expectation::ShouldFail,
    description: "A tool takes memory, processes, threads, descriptors, disk, scratch space, \
                  inodes, the console and 16 MiB of output; the next command works at once, and \
                  the agent does not grow beyond the guest's memory",
    repeats: false,
    run,
};

/// What an attack may cost the agent beyond the guest's own memory, in MiB.
const GROWTH_MIB: u64 = 64;
/// Resources, and for each how much a tool has to get: at least the range's start before it meets a
/// limit, and less than its end, which is what the tool registry allows or the image has.
const THINGS: [(&str, Range<u64>); 9] = [
    ("memory", 1..33),
    ("forks", 1..17),
    ("threads", 1..17),
    ("descriptors", 1..257),
    ("disk", 1..33),
    ("scratch", 1..9),
    ("inodes", 1..4097),
    ("console", 0..1),
    ("output", 1..17),
];
/// Output that the tool writes, in bytes.
const WRITTEN: u64 = 16 << 20;
/// Output that the tool registry lets the host keep of a tool, in bytes.
const KEPT: u64 = 1 << 20;

fn run(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let sandbox = testbed.sandbox(Guest::Shipped)?;
    testbed.attack(&*sandbox, "attack_exhaust", json!({"what": "nothing"}))?;
    let before = HostState::now();
    let mut breaches = Vec::new();
    let mut seen = Vec::new();
    for (what, fair) in THINGS {
        let deadline = testbed.plan().deadline();
        let result = testbed.run(&*sandbox, "attack_exhaust", json!({"what": what}), deadline);
        let (wrong, told) = verdict_on(what, &fair, &result);
        let mut wrong: Vec<String> = wrong.into_iter().collect();
        // Before its traces are reset away.
        wrong.extend(testbed.next_command(&*sandbox));
        wrong.extend(testbed.recover(&*sandbox));
        seen.push(json!({"what": what, "came_to": told}));
        breaches.extend(wrong.into_iter().map(|wrong| format!("{what}: {wrong}")));
    }
    let after = HostState::now();
    let growth = u64::from(testbed.plan().sandbox.memory_mib) + GROWTH_MIB;
    breaches.extend(after.breaches(&before, growth));
    let held = format!("{} things taken to their limits", THINGS.len());
    let evidence = json!({"taken": seen, "before": before, "after": after});
    Ok(Verdict::of(&breaches, held, evidence))
}

/// What is wrong with how an attack ended, if anything, and how it ended.
fn verdict_on(
    what: &str,
    fair: &Range<u64>,
    result: &Result<ToolOutcome, SandboxError>,
) -> (Option<String>, Value) {
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(error) => return (Some(error.to_string()), json!(error.to_string())),
    };
    if let Some(reason @ (ResultReason::OutOfMemory | ResultReason::Signal)) = outcome.reason {
        return (None, json!(reason));
    }
    if what == "output" {
        let told = json!({"written": outcome.stdout_total, "kept": outcome.stdout.len()});
        let kept = outcome.stdout.len() as u64 <= KEPT && outcome.stdout_truncated;
        let wrong = (!kept || outcome.stdout_total < WRITTEN)
            .then(|| format!("output is not cut and counted: {told}"));
        return (wrong, told);
    }
    match AttackLog::read(outcome) {
        Err(error) => (Some(error.to_string()), json!(error.to_string())),
        Ok(log) => {
            let taken = log.facts.get("taken").and_then(Value::as_u64).unwrap_or(u64::MAX);
            let wrong = (!fair.contains(&taken)).then(|| format!("it got {taken}"));
            (wrong, json!({"taken": taken, "refused": log.facts.get("refused")}))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack_log::tests::outcome;

    fn taken(count: u64) -> ToolOutcome {
        let facts = json!({"taken": count, "refused": "no"});
        let log = json!({"attack": "x", "controls": [], "attempts": [], "facts": facts});
        outcome(0, &log.to_string())
    }

    #[test]
    fn more_than_allowed_and_nothing_at_all_fail_and_a_kill_does_not() {
        assert_eq!(verdict_on("forks", &(1..17), &Ok(taken(16))).0, None);
        assert!(verdict_on("forks", &(1..17), &Ok(taken(17))).0.is_some());
        assert!(verdict_on("forks", &(1..17), &Ok(taken(0))).0.is_some());
        let mut killed = outcome(137, "");
        killed.reason = Some(ResultReason::OutOfMemory);
        assert_eq!(verdict_on("memory", &(1..33), &Ok(killed)).0, None);
        assert!(verdict_on("memory", &(1..33), &Ok(outcome(1, ""))).0.is_some());
    }

    #[test]
    fn output_must_be_cut() {
        let mut all = outcome(0, "x");
        all.stdout_total = WRITTEN;
        assert!(verdict_on("output", &(1..17), &Ok(all.clone())).0.is_some());
        all.stdout_truncated = true;
        assert_eq!(verdict_on("output", &(1..17), &Ok(all)).0, None);
    }
}
