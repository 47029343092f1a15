use std::time::Duration;

use futures_util::SinkExt as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::LONG;
use super::fake::{Endpoint, Identity};
use crate::{
    Config, DevRelay, DispatchError, DispatchOptions, Farewell, Outcome, Raw, ViolationKind,
};

async fn pair(config: Config) -> (DevRelay, Identity, Endpoint) {
    let relay = DevRelay::start(config).await.unwrap();
    let identity = Identity::enrolled(&relay);
    let endpoint = Endpoint::connect(&relay, &identity).await;
    (relay, identity, endpoint)
}

fn dispatch(relay: &DevRelay, endpoint_id: &str) -> crate::CommandHandle {
    let params = json!({"message": "hello"});
    relay.dispatch(endpoint_id, "echo", &params, &DispatchOptions::default()).unwrap()
}

fn kinds(relay: &DevRelay) -> Vec<ViolationKind> {
    relay.take_violations().iter().map(|violation| violation.kind).collect()
}

/// Waits until the relay has read everything the endpoint sent so far.
async fn answered(endpoint: &mut Endpoint) {
    let ping = json!({"type": "HealthPing", "session_id": endpoint.session_id,
        "ts": "2026-01-02T03:04:05Z", "ping_id": "settled"});
    endpoint.wire.send(&ping).await;
    loop {
        let frame = endpoint.wire.frame().await;
        if frame["type"] == "HealthPong" {
            assert_eq!(frame["ping_id"], "settled");
            assert_eq!(frame["agent_health"], "ok");
            return;
        }
    }
}

#[tokio::test]
async fn a_command_from_envelope_to_result() {
    let (relay, identity, mut endpoint) = pair(Config::default()).await;
    let mut command = dispatch(&relay, &identity.endpoint_id);
    let envelope = endpoint.wire.frame().await;
    assert_eq!(envelope["command_id"], command.command_id());
    assert_eq!(envelope["session_id"], endpoint.session_id.as_str());
    assert_eq!(envelope["signing_key_id"], relay.signing_key_id());
    for frame in [
        endpoint.ack(command.command_id()),
        endpoint.progress(command.command_id(), 1),
        endpoint.completed(command.command_id()),
    ] {
        endpoint.wire.send(&frame).await;
    }
    command.acked(LONG).await.unwrap();
    let outcome = command.outcome(LONG).await.unwrap();
    assert!(outcome.is_completed());
    assert_eq!(outcome.frame()["payload"]["stdout"], "hello\n");
    assert!(command.timings().to_ack().unwrap() <= command.timings().to_end().unwrap());
    assert_eq!(relay.open_commands(), 0);
    assert!(relay.violations().is_empty(), "{:?}", relay.violations());
}

#[tokio::test]
async fn an_agent_can_verify_what_is_sent() {
    use protocol::canonical::Json;
    use protocol::signing::{Domain, verify};

    let (relay, identity, mut endpoint) = pair(Config::default()).await;
    let _command = dispatch(&relay, &identity.endpoint_id);
    let mut envelope = endpoint.wire.frame().await;
    let signature = envelope["signature"].as_str().unwrap().to_owned();
    envelope["signature"] = json!("");
    let canonical = Json::from_value(&envelope).unwrap().canonical();
    let signature = crate::enrollment::decode_base64(&signature).unwrap().try_into().unwrap();
    let key: Vec<u8> = (0..32)
        .map(|place| {
            u8::from_str_radix(&relay.tenant_public_key_hex()[2 * place..2 * place + 2], 16)
                .unwrap()
        })
        .collect();
    let key = ed25519_dalek::VerifyingKey::from_bytes(&key.try_into().unwrap()).unwrap();
    assert!(verify(&key, Domain::CommandEnvelope, &canonical, &signature));
}

#[tokio::test]
async fn the_timer_gives_up_on_a_silent_endpoint() {
    let ack_timeout = Duration::from_millis(50);
    let (relay, identity, mut endpoint) = pair(Config { ack_timeout, ..Config::default() }).await;
    let mut command = dispatch(&relay, &identity.endpoint_id);
    assert_eq!(command.outcome(LONG).await, Ok(Outcome::NoAck));
    assert!(command.timings().to_end().unwrap() >= ack_timeout);
    // What comes now is late and breaks no rule.
    endpoint.wire.send(&endpoint.ack(command.command_id())).await;
    answered(&mut endpoint).await;
    assert_eq!(relay.late().len(), 1);
    assert!(relay.violations().is_empty(), "{:?}", relay.violations());
}

/// A timer that started with the end of the write would never run out here.
#[tokio::test]
async fn the_timer_runs_before_the_envelope_is_written() {
    let ack_timeout = Duration::from_millis(50);
    let (relay, identity, _endpoint) = pair(Config { ack_timeout, ..Config::default() }).await;
    let more_than_buffers_hold = json!({"message": "x".repeat(32 << 20)});
    let options = DispatchOptions::default();
    let stuck = relay
        .make_envelope(&identity.endpoint_id, "echo", &json!({}))
        .unwrap()
        .sign()
        .unwrap()
        .field("params", more_than_buffers_hold);
    let _first = relay.dispatch_envelope(&identity.endpoint_id, &stuck).unwrap();
    let mut command = relay.dispatch(&identity.endpoint_id, "echo", &json!({}), &options).unwrap();
    assert_eq!(command.outcome(LONG).await, Ok(Outcome::NoAck));
}

#[tokio::test]
async fn an_acknowledgement_stops_the_timer() {
    let ack_timeout = Duration::from_millis(300);
    let (relay, identity, mut endpoint) = pair(Config { ack_timeout, ..Config::default() }).await;
    let mut command = dispatch(&relay, &identity.endpoint_id);
    endpoint.wire.send(&endpoint.ack(command.command_id())).await;
    command.acked(LONG).await.unwrap();
    tokio::time::sleep(2 * ack_timeout).await;
    endpoint.wire.send(&endpoint.failed(command.command_id(), "SANDBOX_TOOL_ERROR")).await;
    let outcome = command.outcome(LONG).await.unwrap();
    assert_eq!(outcome.code(), Some("SANDBOX_TOOL_ERROR"));
    assert!(!outcome.is_completed());
}

#[tokio::test]
async fn a_refusal_ends_the_command() {
    let (relay, identity, mut endpoint) = pair(Config::default()).await;
    let mut command = dispatch(&relay, &identity.endpoint_id);
    endpoint.wire.send(&endpoint.error(command.command_id(), "ENDPOINT_POLICY_DENIED")).await;
    let outcome = command.outcome(LONG).await.unwrap();
    assert!(matches!(outcome, Outcome::Refused(_)));
    assert_eq!(outcome.code(), Some("ENDPOINT_POLICY_DENIED"));
    assert!(relay.violations().is_empty(), "{:?}", relay.violations());
}

#[tokio::test]
async fn frames_that_break_rules_are_named() {
    use ViolationKind::{
        BinaryFrame, FirstFrame, KillsRelay, NotCanonical, NotJson, Schema, SecondAck, UnknownPing,
        UnknownType, WrongEndpoint, WrongSession,
    };
    let (relay, identity, mut endpoint) = pair(Config::default()).await;
    let command = dispatch(&relay, &identity.endpoint_id);
    let id = command.command_id().to_owned();
    let other = "dc4a8b19-91c5-4c30-b66d-549dc96aea71";
    let with = |mut frame: Value, name: &str, value: Value| {
        frame[name] = value;
        frame.to_string()
    };
    let pong = json!({"type": "HealthPong", "session_id": endpoint.session_id, "ping_id": "x",
        "ts": "2026-01-02T03:04:05Z", "agent_health": "ok", "sandbox_state": "ready"});
    let cases: Vec<(String, &[ViolationKind])> = vec![
        (endpoint.ack(&id).to_string(), &[]),
        (endpoint.ack(&id).to_string(), &[SecondAck]),
        (with(endpoint.progress(&id, 1), "extra", json!(1)), &[Schema]),
        (with(endpoint.progress(&id, 2), "session_id", json!(other)), &[WrongSession]),
        (
            with(endpoint.progress(&id, 3), "endpoint_id", json!(other)),
            &[WrongEndpoint, WrongEndpoint],
        ),
        (r#"{"type":"Gossip"}"#.to_owned(), &[UnknownType]),
        ("null".to_owned(), &[KillsRelay]),
        ("[1]".to_owned(), &[NotJson]),
        (r#"{"type":"HealthPing","ping_id":1e400}"#.to_owned(), &[KillsRelay]),
        (identity.hello("2026-01-02T03:04:05Z").to_string(), &[FirstFrame]),
        (pong.to_string(), &[UnknownPing]),
        (format!("{}{}", &pong.to_string()[..1], r#""a":1,"a":2}"#), &[NotCanonical, UnknownType]),
        ("{\"e\\u0301\":1,\"\u{e9}\":2}".to_owned(), &[KillsRelay, UnknownType]),
    ];
    for (text, expected) in cases {
        endpoint.wire.send_text(&text).await;
        answered(&mut endpoint).await;
        assert_eq!(kinds(&relay), expected, "{text}");
    }
    let binary = endpoint.completed(&id).to_string().into_bytes();
    endpoint.wire.0.send(Message::binary(binary)).await.unwrap();
    answered(&mut endpoint).await;
    assert_eq!(kinds(&relay), [BinaryFrame]);
    // Text that is no JSON ends the connection.
    endpoint.wire.send_text("junk").await;
    assert_eq!(endpoint.wire.closed().await, (1003, "invalid JSON".to_owned()));
    assert_eq!(kinds(&relay), [NotJson]);
}

#[tokio::test]
async fn a_replay_may_be_refused_without_breaking_a_rule() {
    let (relay, identity, mut endpoint) = pair(Config::default()).await;
    let mut command = dispatch(&relay, &identity.endpoint_id);
    let id = command.command_id().to_owned();
    endpoint.wire.send(&endpoint.ack(&id)).await;
    endpoint.wire.send(&endpoint.completed(&id)).await;
    command.outcome(LONG).await.unwrap();
    let again = relay.make_envelope(&identity.endpoint_id, "echo", &json!({})).unwrap();
    let again = again.field("command_id", id.as_str()).sign().unwrap();
    assert!(matches!(
        relay.dispatch_envelope(&identity.endpoint_id, &again),
        Err(DispatchError::SentBefore(_))
    ));
    relay.send_raw(&identity.endpoint_id, Raw::Text(command.frame().to_owned())).unwrap();
    assert_eq!(endpoint.wire.frame().await["command_id"], id.as_str());
    assert_eq!(endpoint.wire.frame().await["command_id"], id.as_str());
    endpoint.wire.send(&endpoint.error(&id, "ENDPOINT_NONCE_REPLAY")).await;
    answered(&mut endpoint).await;
    assert!(relay.violations().is_empty(), "{:?}", relay.violations());
    endpoint.wire.send(&endpoint.error(&id, "ENDPOINT_NONCE_REPLAY")).await;
    answered(&mut endpoint).await;
    assert_eq!(kinds(&relay), [ViolationKind::SecondAnswer]);
}

#[tokio::test]
async fn a_command_that_was_not_sent_is_a_violation() {
    let (relay, _identity, mut endpoint) = pair(Config::default()).await;
    let stranger = "3f2b8c1e-7d4a-4e9b-9c55-0123456789ab";
    endpoint.wire.send(&endpoint.ack(stranger)).await;
    answered(&mut endpoint).await;
    assert_eq!(kinds(&relay), [ViolationKind::UnknownCommand]);
}

#[tokio::test]
async fn a_refusal_may_be_about_no_command() {
    let (relay, _identity, mut endpoint) = pair(Config::default()).await;
    let unknown = "00000000-0000-0000-0000-000000000000";
    let mut refusal = endpoint.error(unknown, "ENDPOINT_SCHEMA_INVALID");
    endpoint.wire.send(&refusal).await;
    refusal.as_object_mut().unwrap().remove("command_id");
    endpoint.wire.send(&refusal).await;
    answered(&mut endpoint).await;
    assert!(relay.violations().is_empty(), "{:?}", relay.violations());
    // Nothing else may be.
    endpoint.wire.send(&endpoint.ack(unknown)).await;
    answered(&mut endpoint).await;
    assert_eq!(kinds(&relay), [ViolationKind::UnknownCommand]);
}

#[tokio::test]
async fn a_restart_forgets_commands_and_keeps_enrollments() {
    let (relay, identity, mut endpoint) = pair(Config::default()).await;
    let mut command = dispatch(&relay, &identity.endpoint_id);
    let id = command.command_id().to_owned();
    endpoint.wire.send(&endpoint.ack(&id)).await;
    command.acked(LONG).await.unwrap();
    let urls = (relay.ws_url(), relay.http_url());
    relay.restart(Farewell::Goodbye, Duration::ZERO).await.unwrap();
    assert_eq!(urls, (relay.ws_url(), relay.http_url()));
    assert_eq!(command.outcome(LONG).await, Ok(Outcome::Forgotten));
    let unreachable = relay.send_raw(&identity.endpoint_id, Raw::Ping(Vec::new()));
    assert!(matches!(unreachable, Err(DispatchError::Unreachable(_))));

    let mut endpoint = Endpoint::connect(&relay, &identity).await;
    let mut resumed = endpoint.completed(&id);
    resumed["resumed"] = json!(true);
    endpoint.wire.send(&resumed).await;
    answered(&mut endpoint).await;
    assert!(relay.violations().is_empty(), "{:?}", relay.violations());
    assert_eq!(relay.late().len(), 1);
    assert!(relay.late()[0].resumed);
    endpoint.wire.send(&endpoint.completed(&id)).await;
    answered(&mut endpoint).await;
    assert!(kinds(&relay).contains(&ViolationKind::NotResumed));
}

#[tokio::test]
async fn health_is_asked_and_answered_once() {
    let (relay, identity, mut endpoint) = pair(Config::default()).await;
    let from = relay.next_frame();
    let ping_id = relay.health_ping(&identity.endpoint_id).unwrap();
    let ping = endpoint.wire.frame().await;
    assert_eq!((&ping["type"], &ping["ping_id"]), (&json!("HealthPing"), &json!(ping_id)));
    let answer = json!({"type": "HealthPong", "session_id": endpoint.session_id, "ping_id": ping_id,
        "ts": "2026-01-02T03:04:05Z", "agent_health": "degraded", "sandbox_state": "failed"});
    endpoint.wire.send(&answer).await;
    let seen = relay.wait_for_frame(from, LONG, |frame| frame.kind == "HealthPong").await.unwrap();
    assert_eq!(seen.json()["sandbox_state"], "failed");
    assert!(relay.violations().is_empty(), "{:?}", relay.violations());
}
