//! Evidence of commands: what results anchor at the relay, what the agent keeps, what it exports.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::fs;
use std::process::Output;
use std::time::{Duration, Instant};

use dev_relay::{Config, DevRelay, DispatchOptions, Outcome};
use integration_tests::{LIMIT, ServedAgent};
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_agent-under-test");

async fn run(relay: &DevRelay, agent: &ServedAgent, tool: &str, params: Value) -> Outcome {
    let options = DispatchOptions::default();
    let mut command = relay.dispatch(agent.id(), tool, &params, &options).unwrap();
    command.outcome(LIMIT).await.unwrap_or_else(|error| panic!("{error}\n{}", agent.log()))
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

fn anchor(chains: &Value) -> String {
    let audit = &chains["audit"];
    format!("{}:{}", audit["seq"], audit["head"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn results_anchor_both_chains_and_a_log_written_anew_contradicts_them() {
    let relay = DevRelay::start(Config::default()).await.unwrap();
    let mut agent = ServedAgent::serving(&relay, AGENT).await;
    let completed = run(&relay, &agent, "echo", json!({"message": "hello"})).await;
    let frame = completed.frame();
    let chains = &frame["payload"]["chains"];
    assert_eq!(chains["evidence"], frame["evidence_hash"]);
    let failed = run(&relay, &agent, "fail", json!({"message": "why"})).await;
    let message = failed.frame()["error"]["message"].as_str().unwrap();
    let last = message.lines().last().unwrap().strip_prefix("chains: ").unwrap();
    let later: Value = serde_json::from_str(last).unwrap();
    assert_eq!(later["evidence"], failed.frame()["evidence_hash"]);
    assert!(later["audit"]["seq"].as_u64() > chains["audit"]["seq"].as_u64());

    let anchors = [anchor(chains), anchor(&later)];
    let verify = |agent: &ServedAgent| {
        agent.command(&["audit", "verify", "--anchor", &anchors[0], "--anchor", &anchors[1]])
    };
    let whole = verify(&agent);
    assert!(whole.status.success(), "{}", said(&whole));
    agent.signal(Signal::TERM);
    agent.ended();

    // The anchored row is the command's own or one after it.
    let log = Connection::open(agent.state().join("audit.db")).unwrap();
    let seq: i64 = log
        .query_row(
            "SELECT seq FROM audit WHERE kind = 'CommandEnvelope' ORDER BY seq LIMIT 1",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert!(chains["audit"]["seq"].as_i64().unwrap() >= seq);
    drop(log);

    // A process that can write the file starts all over.
    for name in ["audit.db", "audit.db-wal", "audit.db-shm"] {
        let _ = fs::remove_file(agent.state().join(name));
    }
    let record = agent.state().join("stores");
    let stores = fs::read_to_string(&record).unwrap().replace("audit.db\n", "");
    fs::write(&record, stores).unwrap();
    agent.start();
    agent.session(&relay).await;
    for _ in 0..4 {
        run(&relay, &agent, "echo", json!({"message": "innocent"})).await;
    }
    let alone = agent.command(&["audit", "verify"]);
    assert!(alone.status.success(), "{}", said(&alone));
    let against = verify(&agent);
    assert_eq!(against.status.code(), Some(1), "{}", said(&against));
    assert!(said(&against).contains("written anew"), "{}", said(&against));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_exported_while_the_agent_runs_and_checked_without_it() {
    let relay = DevRelay::start(Config::default()).await.unwrap();
    let mut agent = ServedAgent::serving(&relay, AGENT).await;
    let outcome = run(&relay, &agent, "echo", json!({"message": "e\u{301}vidence"})).await;
    let id = outcome.frame()["command_id"].as_str().unwrap().to_owned();
    let list = agent.command(&["evidence", "list", "--json"]);
    let listed: Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(listed[0]["command_id"], json!(id));
    assert_eq!(listed[0]["lifecycle_state"], "completed");

    let file = agent.state().with_file_name("bundle.json");
    let file = file.to_str().unwrap();
    let exported = agent.command(&["evidence", "export", &id, "--output", file]);
    assert!(exported.status.success(), "{}", said(&exported));
    let again = agent.command(&["evidence", "export", &id, "--output", file]);
    assert!(!again.status.success(), "it was written over");

    let identity: Value =
        serde_json::from_slice(&fs::read(agent.state().join("identity.json")).unwrap()).unwrap();
    let key = identity["public_key"].as_str().unwrap();
    agent.signal(Signal::TERM);
    agent.ended();
    fs::rename(agent.state(), agent.state().with_file_name("gone")).unwrap();
    let tenant = relay.tenant_public_key_hex();
    let verify = |file: &str| {
        agent.command(&[
            "evidence",
            "verify",
            file,
            "--key",
            key,
            "--tenant-key",
            &tenant,
            "--json",
        ])
    };
    let output = verify(file);
    assert!(output.status.success(), "{}", said(&output));
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["valid"], true);
    assert_eq!(verdict["command_id"], json!(id));
    assert_eq!(verdict["evidence_hash"], outcome.frame()["evidence_hash"]);
    assert!(verdict["audit_rows"].as_u64().unwrap() >= 1);

    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
    assert_eq!(verify(file).status.code(), Some(1));
    assert_eq!(verify("/nonexistent").status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn old_evidence_makes_room_and_a_command_without_any_is_named() {
    let relay = DevRelay::start(Config::default()).await.unwrap();
    let mut agent = ServedAgent::enrolled(&relay, AGENT);
    agent.configure("[run]\nevidence_mib = 1\n");
    agent.start();
    agent.session(&relay).await;
    let text = "x".repeat(200_000);
    let mut ids = Vec::new();
    for _ in 0..6 {
        let outcome = run(&relay, &agent, "echo", json!({"message": text})).await;
        ids.push(outcome.frame()["command_id"].as_str().unwrap().to_owned());
    }
    // What is owed stays until the relay has shown that it read it.
    let total = || -> u64 {
        let list = agent.command(&["evidence", "list", "--json"]);
        let listed: Value = serde_json::from_slice(&list.stdout).unwrap();
        listed.as_array().unwrap().iter().map(|line| line["bytes"].as_u64().unwrap()).sum()
    };
    let until = Instant::now() + LIMIT;
    while total() > 1 << 20 {
        assert!(Instant::now() < until, "{}", total());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The latest is there, the first is not.
    let export = |id: &str| agent.command(&["evidence", "export", id]);
    assert!(export(&ids[5]).status.success(), "{}", said(&export(&ids[5])));
    let gone = export(&ids[0]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(said(&gone).contains("no evidence"), "{}", said(&gone));
}
