//! Commands from a relay to an agent and back, with everything real but the machines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use dev_relay::{Config, DevRelay, DispatchOptions, Outcome, Raw};
use ed25519_dalek::SigningKey;
use integration_tests::{LIMIT, ServedAgent};
use rustix::process::Signal;
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_agent-under-test");

async fn relay() -> DevRelay {
    DevRelay::start(Config::default()).await.unwrap()
}

async fn run(relay: &DevRelay, agent: &ServedAgent, tool: &str, params: Value) -> Outcome {
    let options = DispatchOptions::default();
    let mut command = relay.dispatch(agent.id(), tool, &params, &options).unwrap();
    command.outcome(LIMIT).await.unwrap_or_else(|error| panic!("{error}\n{}", agent.log()))
}

async fn echo(relay: &DevRelay, agent: &ServedAgent) {
    let outcome = run(relay, agent, "echo", json!({"message": "hello"})).await;
    assert!(outcome.is_completed(), "{outcome:?}\n{}", agent.log());
}

fn assert_clean(relay: &DevRelay) {
    let violations = relay.violations();
    let said: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(said.is_empty(), "{said:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_acknowledged_run_and_answered() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    let outcome = run(&relay, &agent, "echo", json!({"message": "hello"})).await;
    let frame = outcome.frame();
    let chains = &frame["payload"]["chains"];
    let payload =
        json!({"exit_code": 0, "stdout": "hello\n", "stderr": "", "chains": chains.clone()});
    assert_eq!(frame["payload"], payload);
    assert_eq!(frame["sandbox_reset_state"]["verification_passed"], true);
    assert_eq!(frame["resumed"], false);
    assert!(frame["error"].is_null());

    let failed = run(&relay, &agent, "fail", json!({"message": "why"})).await;
    assert_eq!(failed.code(), Some("SANDBOX_TOOL_ERROR"));
    let message = failed.frame()["error"]["message"].as_str().unwrap();
    assert!(message.contains("exited with 1") && message.contains("why"), "{message}");
    assert_eq!(agent.runs().len(), 2);
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_is_what_runs() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    // Signed over composed characters, sent decomposed: both have the same signature.
    let outcome = run(&relay, &agent, "echo", json!({"message": "cafe\u{301} 1e3"})).await;
    assert_eq!(outcome.frame()["payload"]["stdout"], "caf\u{e9} 1e3\n");
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_commands_are_in_flight_at_once() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    let options = DispatchOptions::default();
    let mut commands: Vec<_> = (0..200)
        .map(|n| {
            let params = json!({"message": format!("number {n}"), "ms": 200});
            relay.dispatch(agent.id(), "echo", &params, &options).unwrap()
        })
        .collect();
    for (n, command) in commands.iter_mut().enumerate() {
        let outcome = command.outcome(LIMIT).await.unwrap();
        assert_eq!(outcome.frame()["payload"]["stdout"], format!("number {n}\n"), "{outcome:?}");
    }
    assert_eq!(agent.runs().len(), 200);
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn every_bad_envelope_is_refused_by_name_and_nothing_runs() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    let good = || relay.make_envelope(agent.id(), "echo", &json!({"message": "x"})).unwrap();
    let now = relay.now();
    let minutes = |n: i64| now.plus_millis(n * 60_000);
    let uuid = "0f0f0f0f-0f0f-4f0f-8f0f-0f0f0f0f0f0f";
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let huge = "x".repeat(2 << 20);
    let cases = [
        (
            "bad signature",
            good().sign().unwrap().field("tool", "fail"),
            "ENDPOINT_SIGNATURE_INVALID",
        ),
        (
            "foreign key",
            good().key(SigningKey::from_bytes(&[7; 32])).sign().unwrap(),
            "ENDPOINT_SIGNATURE_INVALID",
        ),
        (
            "unknown key id",
            good().field("signing_key_id", "nobody/key-v9").sign().unwrap(),
            "ENDPOINT_SIGNATURE_INVALID",
        ),
        (
            "wrong algorithm",
            good().field("signature_algo", "none").sign().unwrap(),
            "ENDPOINT_SIGNATURE_INVALID",
        ),
        (
            "wrong endpoint",
            good().field("target_endpoint_id", uuid).sign().unwrap(),
            "ENDPOINT_WRONG_AUDIENCE",
        ),
        (
            "wrong tenant",
            good().field("tenant_id", "another").sign().unwrap(),
            "ENDPOINT_WRONG_AUDIENCE",
        ),
        (
            "stale session",
            good().field("session_id", uuid).sign().unwrap(),
            "ENDPOINT_SESSION_STALE",
        ),
        (
            "expired",
            good().times(minutes(-7), minutes(-2)).sign().unwrap(),
            "ENDPOINT_ENVELOPE_EXPIRED",
        ),
        (
            "from the future",
            good().times(minutes(2), minutes(7)).sign().unwrap(),
            "ENDPOINT_ENVELOPE_FUTURE_DATED",
        ),
        (
            "too long a life",
            good().times(now, minutes(6)).sign().unwrap(),
            "ENDPOINT_ENVELOPE_EXPIRED",
        ),
        (
            "expiry before issue",
            good().times(now, minutes(-1)).sign().unwrap(),
            "ENDPOINT_ENVELOPE_EXPIRED",
        ),
        ("extra field", good().field("extra", 1).sign().unwrap(), "ENDPOINT_SCHEMA_INVALID"),
        (
            "missing field",
            good().without("correlation_id").sign().unwrap(),
            "ENDPOINT_SCHEMA_INVALID",
        ),
        (
            "array params",
            good().field("params", json!([])).sign().unwrap(),
            "ENDPOINT_SCHEMA_INVALID",
        ),
        ("wrong type", good().field("tool", 7).sign().unwrap(), "ENDPOINT_SCHEMA_INVALID"),
        (
            "other state",
            good().field("lifecycle_state", "started").sign().unwrap(),
            "ENDPOINT_SCHEMA_INVALID",
        ),
        ("short nonce", good().field("nonce", "AAAA").sign().unwrap(), "ENDPOINT_SCHEMA_INVALID"),
        (
            "long tool",
            good().field("tool", "t".repeat(257)).sign().unwrap(),
            "ENDPOINT_SCHEMA_INVALID",
        ),
        (
            "colliding keys",
            good().sign().unwrap().raw_field("params", "{\"caf\u{e9}\":1,\"cafe\u{301}\":2}"),
            "ENDPOINT_SCHEMA_INVALID",
        ),
        ("equal keys", good().sign().unwrap().duplicate("tool", "fail"), "ENDPOINT_SCHEMA_INVALID"),
        (
            "infinity",
            good().sign().unwrap().raw_field("params", "{\"n\":1e400}"),
            "ENDPOINT_SCHEMA_INVALID",
        ),
        (
            "lone surrogate",
            good().sign().unwrap().raw_field("params", "{\"n\":\"\\ud800\"}"),
            "ENDPOINT_SCHEMA_INVALID",
        ),
        (
            "deep nesting",
            good().sign().unwrap().raw_field("params", &format!("{{\"n\":{deep}}}")),
            "ENDPOINT_SCHEMA_INVALID",
        ),
        (
            "too large",
            good().field("params", json!({"message": huge})).sign().unwrap(),
            "ENDPOINT_SCHEMA_INVALID",
        ),
        (
            "unknown tool",
            good().field("tool", "rm").sign().unwrap(),
            "ENDPOINT_TOOL_NOT_REGISTERED",
        ),
        (
            "bad params",
            good().field("params", json!({})).sign().unwrap(),
            "ENDPOINT_SCHEMA_INVALID",
        ),
    ];
    for (what, envelope, code) in cases {
        let mut command = relay.dispatch_envelope(agent.id(), &envelope).unwrap();
        let outcome = command.outcome(LIMIT).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(matches!(outcome, Outcome::Refused(_)), "{what}: {outcome:?}");
        assert_eq!(outcome.code(), Some(code), "{what}: {outcome:?}");
    }
    assert_eq!(agent.runs(), Vec::<String>::new());
    echo(&relay, &agent).await;
    assert_clean(&relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_refused_also_after_a_restart_and_in_another_session() {
    let relay = relay().await;
    let mut agent = ServedAgent::serving(&relay, AGENT).await;
    let options = DispatchOptions::default();
    let params = json!({"message": "once"});
    let mut command = relay.dispatch(agent.id(), "echo", &params, &options).unwrap();
    assert!(command.outcome(LIMIT).await.unwrap().is_completed());
    let frame = command.frame().to_owned();
    let old = agent.session(&relay).await.session_id;

    for restarted in [false, true] {
        if restarted {
            agent.kill();
            agent.start();
            relay.wait_for_session_after(agent.id(), &old, LIMIT).await.unwrap();
        }
        let from = relay.next_frame();
        relay.send_raw(agent.id(), Raw::Text(frame.clone())).unwrap();
        let answer = relay.wait_for_frame(from, LIMIT, |f| f.kind == "ErrorEvent").await.unwrap();
        // In another session the envelope is stale before anybody asks for its nonce.
        let code = if restarted { "ENDPOINT_SESSION_STALE" } else { "ENDPOINT_NONCE_REPLAY" };
        assert_eq!(answer.json()["code"], code);
    }
    // The same nonce in a new envelope of the new session is a replay too.
    let nonce: Value = serde_json::from_str(&frame).unwrap();
    let again = relay.make_envelope(agent.id(), "echo", &params).unwrap();
    let again = again.field("nonce", nonce["nonce"].clone()).sign().unwrap();
    let outcome =
        relay.dispatch_envelope(agent.id(), &again).unwrap().outcome(LIMIT).await.unwrap();
    assert_eq!(outcome.code(), Some("ENDPOINT_NONCE_REPLAY"));
    assert_eq!(agent.runs().len(), 1);
    assert_clean(&relay);
}

/// A relay takes a command for failed when an error names it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_refused_speaks_for_a_command_that_runs() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    let options = DispatchOptions::default();
    let params = json!({"message": "slow", "ms": 3000});
    let mut command = relay.dispatch(agent.id(), "echo", &params, &options).unwrap();
    command.acked(LIMIT).await.unwrap();
    let other = relay.make_envelope(agent.id(), "echo", &params).unwrap();
    let other = other.field("command_id", command.command_id());
    let bad_signature = other.clone().sign().unwrap().field("tool", "fail");
    let bad_audience = other.clone().field("tenant_id", "another").sign().unwrap();
    // As a relay may send that knows more than this agent.
    let cancel = |id: &str| json!({"type": "CommandCancel", "command_id": id}).to_string();
    let bad = [
        ("ENDPOINT_SIGNATURE_INVALID", bad_signature.text()),
        ("ENDPOINT_WRONG_AUDIENCE", bad_audience.text()),
        ("ENDPOINT_NONCE_REPLAY", other.sign().unwrap().text()),
        ("ENDPOINT_SCHEMA_INVALID", cancel(command.command_id())),
    ];
    let answer = async |text| {
        let from = relay.next_frame();
        relay.send_raw(agent.id(), Raw::Text(text)).unwrap();
        relay.wait_for_frame(from, LIMIT, |f| f.kind == "ErrorEvent").await.unwrap().json()
    };
    for (code, text) in bad {
        let event = answer(text).await;
        assert_eq!(event["code"], code);
        assert_eq!(event["command_id"], "00000000-0000-0000-0000-000000000000", "{code}");
    }
    // Of a command that never came, the relay is told by name.
    let unknown = "0f0f0f0f-0f0f-4f0f-8f0f-0f0f0f0f0f0f";
    assert_eq!(answer(cancel(unknown)).await["command_id"], unknown);
    assert!(command.outcome(LIMIT).await.unwrap().is_completed());
    assert_eq!(agent.runs().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_envelope_is_answered_and_survived() {
    let relay = relay().await;
    let agent = ServedAgent::serving(&relay, AGENT).await;
    let junk = [
        Raw::Text("junk".into()),
        Raw::Text("null".into()),
        Raw::Text("[1]".into()),
        Raw::Text("{\"type\":\"Surprise\"}".into()),
        Raw::Text("{\"type\":\"CommandEnvelope\"}".into()),
        Raw::Text("[".repeat(100_000)),
        Raw::Binary(b"{\"type\":\"CommandEnvelope\"}".to_vec()),
        Raw::Binary(vec![0xff; 1000]),
    ];
    for raw in junk {
        let from = relay.next_frame();
        let what = format!("{raw:?}").chars().take(80).collect::<String>();
        relay.send_raw(agent.id(), raw).unwrap();
        let answer = relay.wait_for_frame(from, LIMIT, |f| f.kind == "ErrorEvent").await;
        let answer = answer.unwrap_or_else(|| panic!("{what}: no answer\n{}", agent.log()));
        assert_eq!(answer.json()["code"], "ENDPOINT_SCHEMA_INVALID", "{what}");
    }
    echo(&relay, &agent).await;
    assert_clean(&relay);
}

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

    std::fs::remove_file(&policy).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    echo(&relay, &agent).await;

    // What runs when the kill switch is pulled is ended, and nothing new begins.
    let options = DispatchOptions::default();
    let mut long = relay.dispatch(agent.id(), "sleep", &json!({"ms": 15_000}), &options).unwrap();
    long.acked(LIMIT).await.unwrap();
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
async fn a_clean_stop_finishes_what_is_in_flight() {
    let relay = relay().await;
    let mut agent = ServedAgent::serving(&relay, AGENT).await;
    let options = DispatchOptions::default();
    let params = json!({"message": "last words", "ms": 1000});
    let mut command = relay.dispatch(agent.id(), "echo", &params, &options).unwrap();
    command.acked(LIMIT).await.unwrap();
    agent.signal(Signal::TERM);
    let late = run(&relay, &agent, "echo", json!({"message": "x"})).await;
    assert_eq!(late.code(), Some("ENDPOINT_SANDBOX_NOT_READY"));
    assert!(command.outcome(LIMIT).await.unwrap().is_completed());
    assert!(agent.ended().success(), "{}", agent.log());
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
