//! What happens once a machine could not be shown to be golden, with everything real but the
//! machines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use dev_relay::{CommandHandle as Command, Config, DevRelay, DispatchOptions, Outcome};
use integration_tests::{LIMIT, ServedAgent};
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_agent-under-test");
const DIVERGENCE: &str = "ENDPOINT_RESET_VERIFICATION_DIVERGENCE";
const TRIPPED: &str = "ENDPOINT_INTEGRITY_MONITOR_TRIPPED";

async fn relay() -> DevRelay {
    DevRelay::start(Config::default()).await.unwrap()
}

fn send(relay: &DevRelay, agent: &ServedAgent, ms: u64) -> Command {
    let params = json!({"message": "hello", "ms": ms});
    relay.dispatch(agent.id(), "echo", &params, &DispatchOptions::default()).unwrap()
}

async fn outcome(agent: &ServedAgent, mut command: Command) -> Outcome {
    command.outcome(LIMIT).await.unwrap_or_else(|error| panic!("{error}\n{}", agent.log()))
}

async fn echo(relay: &DevRelay, agent: &ServedAgent) -> Outcome {
    outcome(agent, send(relay, agent, 0)).await
}

fn assert_clean(relay: &DevRelay) {
    let said: Vec<String> = relay.violations().iter().map(ToString::to_string).collect();
    assert!(said.is_empty(), "{said:#?}");
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

fn latch(agent: &ServedAgent) -> Option<Value> {
    let text = std::fs::read(agent.state().join("degraded.json")).ok()?;
    Some(serde_json::from_slice(&text).unwrap())
}

/// Rows of the audit log: kind, code, payload.
fn audited(agent: &ServedAgent, kind: &str) -> Vec<(Option<String>, Option<String>, Value)> {
    let log = rusqlite::Connection::open(agent.state().join("audit.db")).unwrap();
    let mut rows = log
        .prepare("SELECT code, operator_id, payload FROM audit WHERE kind = ? ORDER BY seq")
        .unwrap();
    let rows =
        rows.query_map([kind], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, Vec<u8>>(2)?)));
    rows.unwrap()
        .map(|row| row.unwrap())
        .map(|(code, operator, payload)| {
            (code, operator, serde_json::from_slice(&payload).unwrap())
        })
        .collect()
}

fn assert_log_is_whole(agent: &ServedAgent) {
    let verified = agent.command(&["audit", "verify", "--json"]);
    assert!(verified.status.success(), "{}", text(&verified));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_divergence_is_told_latched_and_halts_everything() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    assert!(echo(&relay, &agent).await.is_completed());

    let from = relay.next_frame();
    agent.tell("diverge_next", Some("disk"));
    let diverged = echo(&relay, &agent).await;
    assert_eq!(diverged.code(), Some(DIVERGENCE));
    let frame = diverged.frame();
    assert_eq!(frame["sandbox_reset_state"]["verification_passed"], false);
    let details = &frame["sandbox_reset_state"]["verification_details"];
    assert_eq!(
        (&details["divergence_action"], &details["fs_hash_match"]),
        (&json!("halt"), &json!(false))
    );
    let message = frame["error"]["message"].as_str().unwrap();
    assert!(message.contains("block 17 is sha256:22, was sha256:11"), "{message}");

    // The relay was told before it had the result.
    let event = relay.wait_for_frame(from, LIMIT, |f| f.kind == "ErrorEvent").await.unwrap();
    assert_eq!(event.json()["code"], DIVERGENCE);
    let of = frame["command_id"].as_str().unwrap();
    assert!(event.json()["message"].as_str().unwrap().contains(of));

    // On disk, for the owner alone, with everything that is known.
    let file = agent.state().join("degraded.json");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let latch = latch(&agent).unwrap();
    assert_eq!((&latch["code"], &latch["command_id"]), (&json!(DIVERGENCE), &frame["command_id"]));
    assert_eq!(latch["findings"][0]["place"], json!({"kind": "block", "number": 17}));
    let bundle = agent.state().join(latch["bundle"].as_str().unwrap());
    assert!(bundle.join("report.json").is_file());

    let incidents = audited(&agent, "IntegrityIncident");
    assert_eq!(incidents.len(), 1);
    assert_eq!(incidents[0].0.as_deref(), Some(DIVERGENCE));
    assert_eq!(incidents[0].2["findings"], latch["findings"]);

    let refused = echo(&relay, &agent).await;
    assert!(matches!(refused, Outcome::Refused(_)), "{refused:?}");
    assert_eq!(refused.code(), Some(TRIPPED));
    assert_eq!(agent.runs().len(), 2);
    assert_eq!(health(&relay, &agent).await, (json!("degraded"), json!("failed")));

    let status = agent.command(&["status"]);
    assert_eq!(status.status.code(), Some(1));
    assert!(text(&status).contains("degraded    since"), "{}", text(&status));
    assert!(text(&status).contains("block 17"), "{}", text(&status));
    let status: Value =
        serde_json::from_slice(&agent.command(&["status", "--json"]).stdout).unwrap();
    assert_eq!(status["degraded"]["code"], DIVERGENCE);
    assert_eq!(status["degraded"]["findings"], latch["findings"]);

    let words = text(&agent.command(&["explain"]));
    for wanted in ["DEGRADED since", of, "block 17", "sha256:11", "report.json", "clear --reason"] {
        assert!(words.contains(wanted), "{wanted} is missing in\n{words}");
    }
    let explained: Value =
        serde_json::from_slice(&agent.command(&["explain", "--json"]).stdout).unwrap();
    assert_eq!(
        explained["sources"][0],
        json!({"source": "disk", "verdict": "disagreed", "findings": 1})
    );
    assert_log_is_whole(&agent);
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_latch_survives_kill_9_and_is_cleared_while_the_agent_runs() {
    let relay = relay().await;
    let mut agent = ServedAgent::serving(&relay, AGENT).await;
    agent.tell("diverge_next", Some("disk"));
    // The agent dies before it sends the result.
    agent.tell("kill_at", Some("ResultReady"));
    let mut command = send(&relay, &agent, 0);
    agent.ended();
    assert_eq!(latch(&agent).unwrap()["code"], DIVERGENCE);
    agent.tell("kill_at", None);

    let from = relay.next_frame();
    agent.start();
    agent.session(&relay).await;
    assert_eq!(command.outcome(LIMIT).await.unwrap().code(), Some(DIVERGENCE));
    let event = relay.wait_for_frame(from, LIMIT, |f| f.kind == "ErrorEvent").await.unwrap();
    assert_eq!(event.json()["code"], TRIPPED);
    assert_eq!(health(&relay, &agent).await, (json!("degraded"), json!("failed")));
    assert_eq!(echo(&relay, &agent).await.code(), Some(TRIPPED));

    let refused = agent.command(&["clear", "--reason", "  "]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    assert!(latch(&agent).is_some());
    let cleared = agent.command(&["clear", "--reason", "a test", "--operator", "ann"]);
    assert!(cleared.status.success(), "{}", text(&cleared));
    assert!(text(&cleared).contains("cleared: degraded since"), "{}", text(&cleared));
    assert!(text(&cleared).contains("block 17"), "{}", text(&cleared));
    assert!(latch(&agent).is_none());
    assert!(echo(&relay, &agent).await.is_completed());
    assert_eq!(health(&relay, &agent).await, (json!("ok"), json!("ready")));
    let machines = std::fs::read_to_string(agent.state().join("../machines.log")).unwrap();
    assert!(machines.trim().ends_with("made anew"), "{machines}");

    let rows = audited(&agent, "DegradedCleared");
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].0.as_deref(), rows[0].1.as_deref()), (Some(DIVERGENCE), Some("ann")));
    assert_eq!(rows[0].2["reason"], "a test");
    assert_eq!(rows[0].2["cleared"]["findings"][0]["place"]["number"], 17);
    let again = agent.command(&["clear", "--reason", "again"]);
    assert!(again.status.success() && text(&again).contains("nothing to clear"));
    assert_eq!(audited(&agent, "DegradedCleared").len(), 1);
    assert!(text(&agent.command(&["explain"])).starts_with("not degraded"));
    assert_log_is_whole(&agent);
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_latch_is_explained_and_cleared_while_the_agent_does_not_run() {
    let relay = relay().await;
    let mut agent = ServedAgent::serving(&relay, AGENT).await;
    agent.tell("diverge_next", Some("silent"));
    let silent = echo(&relay, &agent).await;
    assert_eq!(silent.code(), Some("ENDPOINT_RESET_VERIFICATION_TIMEOUT"));
    agent.kill();
    let words = text(&agent.command(&["explain"]));
    assert!(words.contains("guest    silent"), "{words}");
    let status = agent.command(&["status"]);
    assert_eq!(status.status.code(), Some(125));
    assert!(text(&status).contains("degraded since"), "{}", text(&status));

    let cleared = agent.command(&["clear", "--reason", "a busy host"]);
    assert!(cleared.status.success(), "{}", text(&cleared));
    assert!(latch(&agent).is_none());
    assert_eq!(audited(&agent, "DegradedCleared")[0].2["reason"], "a busy host");
    assert_log_is_whole(&agent);
    agent.start();
    agent.session(&relay).await;
    assert!(echo(&relay, &agent).await.is_completed());
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_finishes_truthfully_and_its_own_trouble_is_counted() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    let (mut good, mut bad) = (send(&relay, &agent, 1500), send(&relay, &agent, 3000));
    good.acked(LIMIT).await.unwrap();
    bad.acked(LIMIT).await.unwrap();
    agent.tell("diverge_next", Some("disk"));
    assert_eq!(echo(&relay, &agent).await.code(), Some(DIVERGENCE));
    assert_eq!(echo(&relay, &agent).await.code(), Some(TRIPPED));
    assert!(outcome(&agent, good).await.is_completed());
    agent.tell("diverge_next", Some("reset"));
    assert_eq!(outcome(&agent, bad).await.code(), Some("ENDPOINT_RESET_FAILED"));
    let latch = latch(&agent).unwrap();
    assert_eq!((&latch["code"], &latch["further_incidents"]), (&json!(DIVERGENCE), &json!(1)));
    let codes: Vec<_> =
        audited(&agent, "IntegrityIncident").into_iter().map(|row| row.0.unwrap()).collect();
    assert_eq!(codes, [DIVERGENCE, "ENDPOINT_RESET_FAILED"]);
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_latch_keeps_the_agent_from_serving() {
    let relay = relay().await;
    let mut agent = ServedAgent::enrolled(&relay, AGENT);
    std::fs::write(agent.state().join("degraded.json"), "{").unwrap();
    agent.start();
    agent.session(&relay).await;
    let refused = echo(&relay, &agent).await;
    assert_eq!(refused.code(), Some(TRIPPED));
    assert!(text(&agent.command(&["explain"])).contains("cannot be read"));
    assert!(agent.command(&["clear", "--reason", "bit rot"]).status.success());
    assert!(echo(&relay, &agent).await.is_completed());
    assert_clean(&relay);
}
