//! Frames that a relay should not send, and envelopes that the agent refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use dev_relay::{DispatchOptions, Outcome, Raw};
use ed25519_dalek::SigningKey;

use integration_tests::ordered::{assert_clean, echo, relay};
use integration_tests::{LIMIT, ServedAgent};
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_agent-under-test");

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
        // In another session the envelope is stale before its nonce is looked up.
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
