//! What the person who operates an agent can see and decide: keys, policy, kill switch, status, metrics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use dev_relay::DispatchOptions;
use ed25519_dalek::SigningKey;

use integration_tests::ordered::{assert_clean, echo, relay, run};
use integration_tests::{LIMIT, ServedAgent};
use rustix::process::Signal;
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_agent-under-test");

#[tokio::test(flavor = "multi_thread")]
async fn a_health_ping_is_answered_with_the_state_of_the_sandbox() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    for (kill_switch, health) in [(false, "ok"), (true, "degraded")] {
        if kill_switch {
            std::fs::write(agent.state().join("KILL"), "").unwrap();
        }
        let from = relay.next_frame();
        relay.health_ping(agent.id()).unwrap();
        let pong = relay.wait_for_frame(from, LIMIT, |f| f.kind == "HealthPong").await.unwrap();
        assert_eq!(pong.json()["agent_health"], health);
        assert_eq!(pong.json()["sandbox_state"], "ready");
    }
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_the_machine_has_the_last_word() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    echo(&relay, &agent).await;

    let policy = agent.state().join("policy.toml");
    let text = "default = 'allow'\n[[rule]]\neffect = 'deny'\ntools = ['echo']\nreason = 'quiet'\n";
    std::fs::write(&policy, text).unwrap();
    agent.signal(Signal::HUP);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let denied = run(&relay, &agent, "echo", json!({"message": "x"})).await;
    assert_eq!(denied.code(), Some("ENDPOINT_POLICY_DENIED"));
    assert!(denied.frame()["message"].as_str().unwrap().contains("quiet"));
    assert!(run(&relay, &agent, "sleep", json!({})).await.is_completed());

    std::fs::write(&policy, "nonsense").unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let denied = run(&relay, &agent, "sleep", json!({})).await;
    assert_eq!(denied.code(), Some("ENDPOINT_POLICY_DENIED"));

    // Gone is not absent, until the operator says so.
    std::fs::remove_file(&policy).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let denied = run(&relay, &agent, "sleep", json!({})).await;
    assert_eq!(denied.code(), Some("ENDPOINT_POLICY_DENIED"));
    agent.signal(Signal::HUP);
    tokio::time::sleep(Duration::from_millis(500)).await;
    echo(&relay, &agent).await;

    // What runs when the kill switch is pulled is ended, and nothing new begins.
    let options = DispatchOptions::default();
    let before = agent.runs().len();
    let mut long = relay.dispatch(agent.id(), "sleep", &json!({"ms": 15_000}), &options).unwrap();
    long.acked(LIMIT).await.unwrap();
    agent.has_run(before + 1);
    std::fs::write(agent.state().join("KILL"), "").unwrap();
    assert_eq!(long.outcome(LIMIT).await.unwrap().code(), Some("SANDBOX_VSOCK_CLOSED"));
    let denied = run(&relay, &agent, "echo", json!({"message": "x"})).await;
    assert_eq!(denied.code(), Some("ENDPOINT_POLICY_DENIED"));
    std::fs::remove_file(agent.state().join("KILL")).unwrap();
    echo(&relay, &agent).await;

    let audited = agent.command(&["audit", "verify", "--json"]);
    assert!(audited.status.success(), "{audited:?}");
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_and_revoked_without_a_restart() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    let keys = agent.state().join("keys.toml");
    let first = std::fs::read_to_string(&keys).unwrap();
    echo(&relay, &agent).await;

    let key = SigningKey::from_bytes(&[9; 32]);
    let hex = key
        .verifying_key()
        .as_bytes()
        .iter()
        .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let second = format!("[[key]]\nid = \"second\"\npublic_key = \"{hex}\"\n");
    std::fs::write(&keys, format!("{first}\n{second}")).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    echo(&relay, &agent).await;
    let old_id = relay.signing_key_id();
    relay.set_signing_key("second", key);
    echo(&relay, &agent).await;

    std::fs::write(&keys, format!("revoked = [\"second\", {old_id:?}]\n{first}\n{second}"))
        .unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let refused = run(&relay, &agent, "echo", json!({"message": "x"})).await;
    assert_eq!(refused.code(), Some("ENDPOINT_SIGNATURE_INVALID"));
    assert!(refused.frame()["message"].as_str().unwrap().contains("revoked"), "{refused:?}");
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_says_how_it_is() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    echo(&relay, &agent).await;
    // The relay may be told a moment before the counter is.
    let status = loop {
        let status = agent.command(&["status", "--json"]);
        assert!(status.status.success(), "{status:?}");
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        if status["completed"] != 0 {
            break status;
        }
    };
    assert_eq!(status["endpoint_id"], agent.id());
    assert_eq!((&status["completed"], &status["failed"]), (&json!(1), &json!(0)));
    assert_eq!(status["recent"]["commands"], 1);

    let table = agent.command(&["status"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("1 completed"), "{table:?}");
    let metrics = agent.command(&["status", "--metrics"]);
    let metrics = String::from_utf8_lossy(&metrics.stdout).into_owned();
    assert!(
        metrics.contains("brainstorm_agent_commands_total{outcome=\"completed\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("brainstorm_agent_connected 1"), "{metrics}");

    std::fs::write(agent.state().join("KILL"), "").unwrap();
    let status = agent.command(&["status"]);
    assert_eq!(status.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&status.stdout).contains("kill switch"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_when_the_agent_serves_and_when_it_stops() {
    let relay = relay().await;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("notify");
    let systemd = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(LIMIT)).unwrap();
    let heard = || {
        let mut text = [0; 4096];
        let length = systemd.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    let mut agent = ServedAgent::enrolled(&relay, AGENT);
    agent.set("NOTIFY_SOCKET", &socket);
    agent.set("WATCHDOG_USEC", "400000");
    agent.start();
    assert_eq!(heard().trim(), "READY=1");
    for _ in 0..3 {
        let signs = heard();
        assert!(signs.contains("WATCHDOG=1") && signs.contains("STATUS="), "{signs}");
    }
    agent.session(&relay).await;
    agent.signal(Signal::TERM);
    assert!(agent.ended().success());
    let mut last = heard();
    while last.contains("WATCHDOG=1") {
        last = heard();
    }
    assert_eq!(last.trim(), "STOPPING=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_served_on_this_machine_when_asked_for() {
    let relay = relay().await;
    let mut agent = ServedAgent::enrolled(&relay, AGENT);
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    agent.configure(&format!("[run]\nmetrics_listen = \"{port}\"\n"));
    agent.start();
    agent.session(&relay).await;
    echo(&relay, &agent).await;
    let get = |path: &str| {
        let mut stream = TcpStream::connect(port).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let metrics = get("/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(metrics.contains("brainstorm_agent_connected 1"), "{metrics}");
    assert!(get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(get("/else").starts_with("HTTP/1.1 404"));
    std::fs::write(agent.state().join("KILL"), "").unwrap();
    assert!(get("/healthz").starts_with("HTTP/1.1 503"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_listened_on_is_known_before_the_relay_is_called() {
    let relay = relay().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut agent = ServedAgent::enrolled(&relay, AGENT);
    let address = taken.local_addr().unwrap();
    agent.configure(&format!("[run]\nmetrics_listen = '{address}'\n"));
    agent.start();
    assert!(!agent.ended().success());
    assert!(agent.log().contains("listen for questions about metrics"), "{}", agent.log());
    assert_eq!(relay.connections(), 0);

    // The same agent with an address that is free.
    drop(taken);
    agent.start();
    agent.session(&relay).await;
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_an_agent_that_waits_for_what_is_in_flight() {
    let relay = relay().await;
    let mut agent = ServedAgent::serving(&relay, AGENT).await;
    let params = json!({"message": "never", "ms": 600_000});
    let mut command =
        relay.dispatch(agent.id(), "echo", &params, &DispatchOptions::default()).unwrap();
    command.acked(LIMIT).await.unwrap();
    agent.has_run(1);
    agent.signal(Signal::TERM);
    while !agent.log().contains("stopping") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!agent.processes().is_empty(), "it waits for the command");
    agent.signal(Signal::INT);
    assert!(agent.ended().success(), "{}", agent.log());
    assert!(agent.log().contains("told to stop again"), "{}", agent.log());
}
