//! A relay that comes back in the middle of a command gets no machine that was not verified.

use serde_json::{Value, json};

use super::machines::Machines;
use super::persistence;
use super::served::{Relay, Served};
use super::signer::{Envelope, OTHER, SESSION, failed};
use crate::attack_log::AttackLog;
use crate::scratch::Scratch;
use crate::{AttackerClass, Expectation, FnProbe, Guest, ProbeError, Testbed, Verdict, search};
use protocol::Timestamp;

/// The session is lost in the middle of a command.
pub const PROBE: FnProbe = FnProbe {
    name: "reconnect",
    class: AttackerClass::A6,
    expectation: Expectation::ShouldFail,
    description: "The connection is lost while a command leaves a mark; in the next session the \
                  same envelope is sent again, and a command that looks for the mark: it waits \
                  for a machine that was reset and verified, and the first result comes once",
    repeats: false,
    run,
};

/// How long the first command runs, in milliseconds: longer than a session takes to come back.
const STAY_MS: u64 = 1500;

fn run(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let sandbox = testbed.kvm(Guest::Shipped)?;
    persistence::control(testbed, &sandbox)?;
    let runtime = runtime()?;
    let verdict = runtime.block_on(attack(testbed));
    runtime.shutdown_background();
    verdict
}

/// A runtime with two threads for an agent.
pub fn runtime() -> Result<tokio::runtime::Runtime, ProbeError> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

async fn attack(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let scratch = Scratch::new()?;
    let machines = tokio::task::block_in_place(|| Machines::of(testbed))?;
    let served = Served::start(scratch.path(), machines).await?;
    let (marker, now) = (search::marker(), Timestamp::now());
    let patience = testbed.plan().budget;

    let mut first = served.connect(SESSION, patience);
    let marking = Envelope::of(now, "attack_mark", json!({"marker": marker, "stay_ms": STAY_MS}));
    served.send(&first, marking.signed()?);
    first.started(marking.id()).await?;
    if first.count(|frame| frame["type"] == "CommandResult") > 0 {
        return Err(failed("the command was over before the connection was lost"));
    }
    served.lose(first);

    let mut second = served.connect(OTHER, patience);
    served.send(&second, marking.signed()?);
    let finding = Envelope::of(now, "attack_find", json!({"marker": marker}));
    let finding = finding.with("session_id", json!(OTHER));
    served.send(&second, finding.signed()?);
    let looked = second.end_of(finding.id()).await?;
    let stale = second.wait_for("a refusal", |frame| frame["type"] == "ErrorEvent").await?;
    let answered = second
        .wait_for("the first result", |frame| {
            frame["command_id"] == marking.id() && frame["type"] == "CommandResult"
        })
        .await?;
    let mut breaches = Vec::new();
    if stale["code"] != "ENDPOINT_SESSION_STALE" {
        breaches.push(format!("the envelope of the lost session: {}", stale["code"]));
    }
    if answered["resumed"] != true {
        breaches.push("the first result does not say that it is of another session".to_owned());
    }
    breaches.extend(result("the first command", &answered)?.1);
    breaches.extend(looked_at(&looked)?);
    breaches.extend(once(&second, marking.id()));
    served.end().await;
    let held = "the second session's command found a machine reset and verified";
    let evidence =
        json!({"stale": stale["code"], "first": short(&answered), "next": short(&looked)});
    Ok(Verdict::of(&breaches, held, evidence))
}

/// The log of an attack in a command's result, and what is wrong with that result.
pub fn result(whose: &str, frame: &Value) -> Result<(AttackLog, Option<String>), ProbeError> {
    if frame["lifecycle_state"] != "completed" {
        return Err(failed(format!("{whose} did not complete: {frame}")));
    }
    let log =
        AttackLog::of_text(frame["payload"]["stdout"].as_str().unwrap_or_default().as_bytes())?;
    let verified = frame["sandbox_reset_state"]["verification_passed"] == true;
    Ok((log, (!verified).then(|| format!("{whose} completed on a machine that did not verify"))))
}

/// What is wrong with the result of a command that looked for the mark of the command before it.
pub fn looked_at(frame: &Value) -> Result<Option<String>, ProbeError> {
    let (log, wrong) = result("the next command", frame)?;
    let found = persistence::places(&log);
    let left = (!found.is_empty()).then(|| format!("the next command finds the mark in {found:?}"));
    Ok(left.or(wrong))
}

/// The breach when a command has another number of results than one.
fn once(relay: &Relay, command: &str) -> Option<String> {
    let results =
        relay.count(|frame| frame["command_id"] == command && frame["type"] == "CommandResult");
    (results != 1).then(|| format!("the first command has {results} results"))
}

/// The fields of a result that the report shows.
pub fn short(frame: &Value) -> Value {
    json!({"type": frame["type"], "state": frame["lifecycle_state"], "resumed": frame["resumed"],
        "error": frame["error"]["code"],
        "verified": frame["sandbox_reset_state"]["verification_passed"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(found: &Value, verified: bool) -> Value {
        let log = json!({"attack": "find", "controls": [], "attempts": [],
            "facts": {"found": found}});
        json!({"type": "CommandResult", "lifecycle_state": "completed",
            "payload": {"stdout": log.to_string()},
            "sandbox_reset_state": {"verification_passed": verified}})
    }

    #[test]
    fn a_mark_or_an_unverified_machine_fails() {
        assert_eq!(looked_at(&looked(&json!([]), true)).unwrap(), None);
        let left = looked_at(&looked(&json!(["/tmp/mark"]), true)).unwrap().unwrap();
        assert!(left.contains("/tmp/mark"), "{left}");
        let unverified = looked_at(&looked(&json!([]), false)).unwrap().unwrap();
        assert!(unverified.contains("did not verify"), "{unverified}");
        let mut other = looked(&json!([]), true);
        other["lifecycle_state"] = json!("failed");
        assert!(looked_at(&other).is_err(), "it proves nothing");
    }
}
