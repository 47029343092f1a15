//! A guest program that is the attacker breaks the protocol; the host refuses and goes on.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::naive_host;
use crate::host::HostState;
use crate::{AttackerClass, Expectation, FnProbe, Guest, ProbeError, Testbed, Verdict};
use sandbox::{KvmSandbox, SandboxError, ToolOutcome};

/// The guest program, PID 1, is the attacker.
pub const PROBE: FnProbe = FnProbe {
    name: "vsock-poison",
    class: AttackerClass::A3,
    expectation: Expectation::ShouldFail,
    description: "The guest program sends wrong lengths, drips, deep nesting, other commands' \
                  results, broken evidence, floods and silence; each is refused in time, costs the \
                  host little, and the next command works after a reset",
    repeats: false,
    run,
};

/// What must come of a way to break the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// An error, and the machine is reset.
    Refused,
    /// An error or a good result: the host ignores what broke the rules.
    Harmless,
}

use Outcome::{Harmless, Refused};

const MODES: &[(&str, Outcome)] = &[
    ("length-zero", Refused),
    ("length-over", Refused),
    ("length-max", Refused),
    ("half-header", Refused),
    ("half-frame", Refused),
    ("end-in-frame", Refused),
    ("end", Refused),
    ("drip", Refused),
    ("deep-arrays", Refused),
    ("deep-objects", Refused),
    ("deep-in-result", Refused),
    ("not-json", Refused),
    ("not-utf8", Refused),
    ("not-a-message", Harmless),
    ("duplicate-keys", Refused),
    ("other-id", Refused),
    ("host-message", Refused),
    ("no-ack", Refused),
    ("ack-twice", Harmless),
    ("ack-of-other-entropy", Refused),
    ("result-twice", Harmless),
    ("evidence-gap", Refused),
    ("evidence-repeats", Refused),
    ("evidence-forged", Refused),
    ("evidence-missing", Refused),
    ("late", Refused),
    ("silent", Refused),
    ("tiny-frames", Harmless),
    ("chunk-flood", Harmless),
    ("huge-result", Refused),
    ("connection-flood", Harmless),
];
/// Modes that send what looks like a result.
const WITH_RESULTS: [&str; 7] = [
    "other-id",
    "no-ack",
    "ack-of-other-entropy",
    "evidence-gap",
    "evidence-repeats",
    "evidence-forged",
    "evidence-missing",
];
/// Deadline of a mode that must be refused.
const DEADLINE: Duration = Duration::from_millis(400);
/// Deadline of a mode that sends many small things.
const LONG_DEADLINE: Duration = Duration::from_secs(2);
/// What the probe may cost the agent beyond the guest's own memory, in MiB: some frames of 16 MiB.
const GROWTH_MIB: u64 = 128;
const GOOD: &[u8] = b"well behaved\n";

fn run(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let sandbox = testbed.sandbox(Guest::Hostile)?;
    let deadline = testbed.plan().deadline();
    let poison = |mode: &str, count: u32, deadline: Duration| {
        testbed.run(&*sandbox, "attack_poison", json!({"mode": mode, "count": count}), deadline)
    };
    match poison("control", 0, deadline) {
        Ok(outcome) if is_good(&outcome) => {}
        Ok(outcome) => {
            let code = outcome.exit_code;
            return Err(ProbeError::Control(format!("the hostile guest ended with {code}")));
        }
        Err(error) => return Err(ProbeError::Control(error.to_string())),
    }
    if testbed.plan().leaves_out("protocol") {
        return believed(testbed, &*testbed.kvm(Guest::Hostile)?);
    }
    let slack = testbed.slack(&*sandbox)?;
    let before = HostState::now();
    let mut breaches = Vec::new();
    let mut seen = Vec::new();
    // A silent guest alone shows whether a deadline holds.
    let all = !testbed.plan().leaves_out("deadline");
    for (mode, expected) in MODES.iter().filter(|(mode, _)| all || *mode == "silent") {
        let deadline = if *expected == Harmless { LONG_DEADLINE } else { DEADLINE };
        let count = if *mode == "connection-flood" {
            500
        } else {
            testbed.plan().iterations.saturating_mul(1000)
        };
        let begun = Instant::now();
        let result = poison(mode, count, testbed.enforced(deadline, slack));
        let took = begun.elapsed();
        let mut wrong = verdict_on(*expected, &result);
        if took > deadline + slack {
            wrong.push(format!("it took {took:?}, more than {:?}", deadline + slack));
        }
        wrong.extend(testbed.recover(&*sandbox));
        wrong.extend(testbed.next_command(&*sandbox));
        seen.push(
            json!({"mode": mode, "took_ms": took.as_millis() as u64, "came_to": told(&result)}),
        );
        breaches.extend(wrong.into_iter().map(|wrong| format!("{mode}: {wrong}")));
    }
    let growth = u64::from(testbed.plan().sandbox.memory_mib) + GROWTH_MIB;
    let after = HostState::now();
    breaches.extend(after.breaches(&before, growth));
    let held = format!("{} ways to break the protocol came to nothing", seen.len());
    let evidence = json!({"modes": seen, "before": before, "after": after});
    Ok(Verdict::of(&breaches, held, evidence))
}

/// Judges what becomes of the modes where a host believes the first result that comes.
fn believed(testbed: &Testbed, sandbox: &KvmSandbox) -> Result<Verdict, ProbeError> {
    let believe = |mode: &str| naive_host::first_result(testbed, sandbox, mode);
    believe("control").map_err(ProbeError::Control)?;
    let (mut breaches, mut seen) = (Vec::new(), Vec::new());
    for (mode, _) in MODES.iter().filter(|(mode, _)| WITH_RESULTS.contains(mode)) {
        let result = believe(mode);
        if let Ok(exit_code) = &result {
            breaches.push(format!("{mode}: it was taken for a result with exit code {exit_code}"));
        }
        seen.push(json!({"mode": mode, "came_to": format!("{result:?}")}));
        breaches.extend(testbed.recover(sandbox).map(|wrong| format!("{mode}: {wrong}")));
    }
    Ok(Verdict::of(&breaches, "nothing was believed", json!({ "modes": seen })))
}

fn is_good(outcome: &ToolOutcome) -> bool {
    outcome.exit_code == 0 && outcome.stdout == GOOD
}

fn verdict_on(expected: Outcome, result: &Result<ToolOutcome, SandboxError>) -> Vec<String> {
    match (expected, result) {
        (Refused, Ok(outcome)) => {
            vec![format!("it was taken for a result with exit code {}", outcome.exit_code)]
        }
        (_, Err(SandboxError::ResetFailed { reason })) => vec![reason.clone()],
        (_, Err(error @ SandboxError::NotAvailable { .. })) => vec![error.to_string()],
        (Harmless, Ok(_)) | (_, Err(_)) => Vec::new(),
    }
}

fn told(result: &Result<ToolOutcome, SandboxError>) -> Value {
    match result {
        Ok(outcome) => json!({"exit_code": outcome.exit_code, "bytes": outcome.stdout.len()}),
        Err(error) => json!({"code": error.code(), "message": error.to_string()
            .chars().take(300).collect::<String>()}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack_log::tests::outcome;
    use sandbox::ChannelError;

    #[test]
    fn a_result_where_a_refusal_is_due_fails() {
        let good = || Ok(outcome(0, "well behaved\n"));
        let refused = || Err(SandboxError::Channel(ChannelError::Malformed));
        assert_eq!(verdict_on(Refused, &good()).len(), 1);
        assert!(verdict_on(Refused, &refused()).is_empty());
        assert!(verdict_on(Harmless, &good()).is_empty());
        assert!(verdict_on(Harmless, &refused()).is_empty());
        let gone = Err(SandboxError::NotAvailable { reason: "gone".into() });
        assert_eq!(verdict_on(Refused, &gone).len(), 1);
    }
}
