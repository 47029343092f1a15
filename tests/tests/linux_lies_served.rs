//! What a relay, an operator and the next command see when a machine with a real guest was tampered
//! with: from the clean command before to the one after `clear`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::process::Output;
use std::time::Duration;

use dev_relay::{Config, DevRelay, DispatchOptions, Outcome};
use integration_tests::{LIMIT, ServedAgent};
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_agent-to-tamper");
const DIVERGENCE: &str = "ENDPOINT_RESET_VERIFICATION_DIVERGENCE";
const TRIPPED: &str = "ENDPOINT_INTEGRITY_MONITOR_TRIPPED";

async fn serving() -> (DevRelay, ServedAgent) {
    // Everything is emulated in here, the relay included.
    let config = Config { ack_timeout: Duration::from_secs(30), ..Config::default() };
    let relay = DevRelay::start(config).await.unwrap();
    let mut agent = ServedAgent::with_machines_to_tamper_with(&relay, AGENT);
    agent.start();
    agent.session(&relay).await;
    (relay, agent)
}

async fn run(relay: &DevRelay, agent: &ServedAgent, tool: &str, params: Value) -> Outcome {
    let options = DispatchOptions::default();
    let mut command = relay.dispatch(agent.id(), tool, &params, &options).unwrap();
    command.outcome(LIMIT * 2).await.unwrap_or_else(|error| panic!("{error}\n{}", agent.log()))
}

async fn write(relay: &DevRelay, agent: &ServedAgent) -> Outcome {
    run(relay, agent, "write_file", json!({"path": "/work/note", "content": "a note"})).await
}

fn assert_verified(outcome: &Outcome, agent: &ServedAgent) {
    assert!(outcome.is_completed(), "{outcome:?}\n{}", agent.log());
    let reset = &outcome.frame()["sandbox_reset_state"];
    assert_eq!(reset["verification_passed"], true, "{reset}");
    assert_eq!(reset["verification_details"]["divergence_action"], "none", "{reset}");
}

async fn health(relay: &DevRelay, agent: &ServedAgent) -> (Value, Value) {
    let from = relay.next_frame();
    relay.health_ping(agent.id()).unwrap();
    let pong = relay.wait_for_frame(from, LIMIT, |f| f.kind == "HealthPong").await.unwrap();
    (pong.json()["agent_health"].clone(), pong.json()["sandbox_state"].clone())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn audited(agent: &ServedAgent, kind: &str) -> Vec<(Option<String>, Value)> {
    let log = rusqlite::Connection::open(agent.state().join("audit.db")).unwrap();
    let mut rows =
        log.prepare("SELECT code, payload FROM audit WHERE kind = ? ORDER BY seq").unwrap();
    let rows = rows.query_map([kind], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?)));
    rows.unwrap()
        .map(|row| row.unwrap())
        .map(|(code, payload)| (code, serde_json::from_slice(&payload).unwrap()))
        .collect()
}

/// A tampered command and all that follows, until a command is served again.
async fn assert_halts(
    relay: &DevRelay,
    agent: &mut ServedAgent,
    deed: &str,
    source: &str,
    place: &str,
) {
    let incidents_before = audited(agent, "IntegrityIncident").len();
    let from = relay.next_frame();
    agent.tell("tamper", Some(deed));
    let diverged = write(relay, agent).await;
    assert_eq!(diverged.code(), Some(DIVERGENCE), "{diverged:?}\n{}", agent.log());
    let frame = diverged.frame();
    let reset = &frame["sandbox_reset_state"];
    assert_eq!(reset["verification_passed"], false, "{reset}");
    assert_eq!(reset["verification_details"]["divergence_action"], "halt", "{reset}");
    let message = frame["error"]["message"].as_str().unwrap();
    assert!(message.contains(place), "{message}");
    let event = relay.wait_for_frame(from, LIMIT, |f| f.kind == "ErrorEvent").await.unwrap();
    assert_eq!(event.json()["code"], DIVERGENCE);

    assert_eq!(write(relay, agent).await.code(), Some(TRIPPED));
    assert_eq!(health(relay, agent).await, (json!("degraded"), json!("failed")));
    let incidents = audited(agent, "IntegrityIncident");
    assert_eq!(incidents.len(), incidents_before + 1);
    let (code, payload) = incidents.last().unwrap();
    assert_eq!(code.as_deref(), Some(DIVERGENCE));
    let findings = payload["findings"].as_array().unwrap();
    let named = findings.iter().any(|finding| {
        finding["source"] == source && finding["line"].as_str().unwrap().contains(place)
    });
    assert!(named, "{payload:#}");

    // Nothing of it is in the process alone.
    let old = agent.session(relay).await.session_id;
    agent.kill();
    agent.start();
    relay.wait_for_session_after(agent.id(), &old, LIMIT).await.unwrap();
    assert_eq!(health(relay, agent).await, (json!("degraded"), json!("failed")));
    assert_eq!(write(relay, agent).await.code(), Some(TRIPPED));

    let verified = agent.command(&["audit", "verify"]);
    assert!(verified.status.success(), "{}", text(&verified));
    let words = text(&agent.command(&["explain"]));
    for wanted in ["DEGRADED since", DIVERGENCE, place, "clear --reason"] {
        assert!(words.contains(wanted), "{wanted} is missing in\n{words}");
    }

    let cleared = agent.command(&["clear", "--reason", "it was a test"]);
    assert!(cleared.status.success(), "{}", text(&cleared));
    assert_verified(&write(relay, agent).await, agent);
    assert_eq!(health(relay, agent).await, (json!("ok"), json!("ready")));
    let reasons = audited(agent, "DegradedCleared");
    assert_eq!(reasons.last().unwrap().1["reason"], "it was a test");
    assert!(text(&agent.command(&["explain"])).starts_with("not degraded"));
    let verified = agent.command(&["audit", "verify"]);
    assert!(verified.status.success(), "{}", text(&verified));

    // The machine that was made anew is not attacked.
    agent.kill();
    agent.start();
    agent.session(relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tampered_machine_halts_everything_until_an_operator_has_looked() {
    let (relay, mut agent) = serving().await;
    assert_verified(&write(&relay, &agent).await, &agent);
    for (deed, source, place) in [
        ("overlay", "disk", "block "),
        ("clean-page", "memory", "page 0x6400000"),
        ("pause", "vmm", "run state is paused"),
    ] {
        assert_halts(&relay, &mut agent, deed, source, place).await;
    }
    let said: Vec<String> = relay.violations().iter().map(ToString::to_string).collect();
    assert!(said.is_empty(), "{said:#?}");
}
