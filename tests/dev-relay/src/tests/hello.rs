use base64::Engine as _;
use ed25519_dalek::SigningKey;
use futures_util::SinkExt as _;
use protocol::timestamp::Timestamp;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::LONG;
use super::fake::{Endpoint, Identity, Wire};
use crate::{Config, DevRelay, FrameBody, ViolationKind};

async fn relay() -> DevRelay {
    DevRelay::start(Config::default()).await.unwrap()
}

/// What a first frame is answered with.
async fn answer(relay: &DevRelay, first: &str) -> (u16, String) {
    let mut wire = Wire::connect(relay, "/v1/endpoint/connect").await;
    wire.send_text(first).await;
    wire.closed().await
}

fn kinds(relay: &DevRelay) -> Vec<ViolationKind> {
    relay.take_violations().iter().map(|violation| violation.kind).collect()
}

#[tokio::test]
async fn a_good_hello_gets_a_session() {
    let relay = relay().await;
    let identity = Identity::enrolled(&relay);
    let endpoint = Endpoint::connect(&relay, &identity).await;
    let session = relay.wait_for_endpoint(&identity.endpoint_id, LONG).await.unwrap();
    assert_eq!(session.session_id, endpoint.session_id);
    assert_eq!(session.agent_version, "0.0.0");
    assert_eq!(relay.sessions().len(), 1);
    drop(endpoint);
    assert!(relay.wait_for_disconnect(&identity.endpoint_id, LONG).await);
    assert!(relay.violations().is_empty(), "{:?}", relay.violations());
    assert!(relay.refused().is_empty());
}

#[tokio::test]
async fn the_checks_of_a_hello_come_in_order() {
    let relay = relay().await;
    let mut identity = Identity::enrolled(&relay);
    let now = Timestamp::now();
    let good = identity.hello(&now.to_string());
    let at = |offset| identity.hello(&now.plus_millis(offset).to_string());
    let with = |mut hello: Value, pointer: &str, value: Value| {
        *hello.pointer_mut(pointer).unwrap() = value;
        hello
    };
    let unknown = "dc4a8b19-91c5-4c30-b66d-549dc96aea71";
    let signature = "/connection_proof/signature";
    let refusals = [
        // Not enrolled wins over everything.
        (with(at(-90_000), "/endpoint_id", json!(unknown)), "ENDPOINT_NOT_ENROLLED"),
        // The time wins over the signature.
        (with(at(-90_000), signature, json!("AAAA")), "ENDPOINT_PROOF_EXPIRED"),
        (at(90_000), "ENDPOINT_PROOF_FUTURE_DATED"),
        (with(good.clone(), "/connection_proof/ts", json!("noon")), "ENDPOINT_PROOF_MALFORMED"),
        (with(good.clone(), signature, json!("-_-_")), "ENDPOINT_PROOF_MALFORMED"),
        (with(good.clone(), signature, json!("AAAA")), "ENDPOINT_PROOF_INVALID"),
        (
            with(good.clone(), "/connection_proof/ts", json!(now.plus_millis(1))),
            "ENDPOINT_PROOF_INVALID",
        ),
        (with(good.clone(), "/tenant_id", json!("another")), "ENDPOINT_PROOF_INVALID"),
    ];
    for (hello, reason) in refusals {
        let (code, said) = answer(&relay, &hello.to_string()).await;
        assert_eq!((code, said.as_str()), (1008, reason), "{hello}");
    }
    assert_eq!(relay.refused().len(), 8);
    identity.key = SigningKey::from_bytes(&[7; 32]);
    let (_, said) = answer(&relay, &identity.hello(&now.to_string()).to_string()).await;
    assert_eq!(said, "ENDPOINT_PROOF_INVALID");
    relay.revoke(&identity.endpoint_id);
    assert_eq!(answer(&relay, &good.to_string()).await.1, "ENDPOINT_NOT_ENROLLED");
}

#[tokio::test]
async fn the_relays_own_clock_decides() {
    let relay = relay().await;
    let identity = Identity::enrolled(&relay);
    let hello = identity.hello(&Timestamp::now().to_string()).to_string();
    let clock_offset_ms = 3_600_000;
    relay.set_faults(crate::Faults { clock_offset_ms, ..relay.faults() });
    assert_eq!(answer(&relay, &hello).await.1, "ENDPOINT_PROOF_EXPIRED");
}

#[tokio::test]
async fn anything_else_first_is_refused_and_survived() {
    use ViolationKind::{FirstFrame, KillsRelay, Schema};
    let relay = relay().await;
    let identity = Identity::enrolled(&relay);
    let ack = (1003, "first frame must be EndpointHello".to_owned());
    for (first, expected) in [
        ("null", KillsRelay),
        ("[1]", FirstFrame),
        ("not JSON", FirstFrame),
        (r#"{"type":"CommandAck"}"#, FirstFrame),
    ] {
        assert_eq!(answer(&relay, first).await, ack, "{first}");
        assert_eq!(kinds(&relay), [expected], "{first}");
    }
    let mut hello = identity.hello(&Timestamp::now().to_string());
    hello.as_object_mut().unwrap().remove("connection_proof");
    assert_eq!(answer(&relay, &hello.to_string()).await.0, 1008);
    assert_eq!(kinds(&relay), [Schema, KillsRelay]);
    // The relay still serves.
    Endpoint::connect(&relay, &identity).await;
}

#[tokio::test]
async fn a_base64url_key_is_enrolled_and_named() {
    let relay = relay().await;
    let mut identity = Identity::enrolled(&relay);
    // A key whose spelling differs between the two alphabets.
    let (seed, key) = (0..=255)
        .map(|byte| SigningKey::from_bytes(&[byte; 32]))
        .map(|key| (key.clone(), key.verifying_key()))
        .find(|(_, key)| base64::engine::general_purpose::STANDARD.encode(key).contains(['+', '/']))
        .unwrap();
    identity.key = seed;
    relay.enroll(&identity.endpoint_id, &base64::engine::general_purpose::URL_SAFE.encode(key));
    let hello = identity.hello(&Timestamp::now().to_string());
    assert_eq!(answer(&relay, &hello.to_string()).await.1, "ENDPOINT_PROOF_INVALID");
    assert_eq!(kinds(&relay), [ViolationKind::KillsRelay]);
}

#[tokio::test]
async fn nothing_may_be_sent_before_the_answer() {
    let relay = relay().await;
    let identity = Identity::enrolled(&relay);
    relay.set_faults(crate::Faults {
        hello_delay: std::time::Duration::from_secs(60),
        ..relay.faults()
    });
    let mut wire = Wire::connect(&relay, "/v1/endpoint/connect").await;
    wire.send(&identity.hello(&Timestamp::now().to_string())).await;
    wire.send(&json!({"type": "HealthPing"})).await;
    assert_eq!(wire.closed().await.0, 1003);
    assert_eq!(kinds(&relay), [ViolationKind::BeforeHelloAck]);
}

/// Not even in the same breath as the hello.
#[tokio::test]
async fn nothing_may_follow_the_hello_at_once() {
    let relay = relay().await;
    let identity = Identity::enrolled(&relay);
    let mut wire = Wire::connect(&relay, "/v1/endpoint/connect").await;
    let hello = identity.hello(&Timestamp::now().to_string()).to_string();
    wire.0.feed(Message::text(hello)).await.unwrap();
    wire.0.feed(Message::text(r#"{"type":"HealthPing"}"#)).await.unwrap();
    wire.0.flush().await.unwrap();
    assert_eq!(wire.closed().await.0, 1003);
    assert_eq!(kinds(&relay), [ViolationKind::BeforeHelloAck]);
    assert!(relay.session(&identity.endpoint_id).is_none());
}

#[tokio::test]
async fn the_newest_connection_wins() {
    let relay = relay().await;
    let identity = Identity::enrolled(&relay);
    let mut first = Endpoint::connect(&relay, &identity).await;
    let mut second = Endpoint::connect(&relay, &identity).await;
    assert_eq!(first.wire.closed().await, (1000, "replaced by reconnect".to_owned()));
    let session = relay.session(&identity.endpoint_id).unwrap();
    assert_eq!(session.session_id, second.session_id);
    relay.replace_session(&identity.endpoint_id).unwrap();
    assert_eq!(second.wire.closed().await, (1000, "replaced by reconnect".to_owned()));
    assert!(relay.wait_for_disconnect(&identity.endpoint_id, LONG).await);
}

#[tokio::test]
async fn an_unknown_path_is_named() {
    let relay = relay().await;
    let mut wire = Wire::connect(&relay, "/v1/endpoint/connect/").await;
    assert_eq!(wire.closed().await, (1008, "unknown path: /v1/endpoint/connect/".to_owned()));
    // A query is no part of the path.
    let identity = Identity::enrolled(&relay);
    let mut wire = Wire::connect(&relay, "/v1/endpoint/connect?x=1").await;
    wire.send(&identity.hello(&Timestamp::now().to_string())).await;
    assert_eq!(wire.frame().await["type"], "EndpointHelloAck");
}

#[tokio::test]
async fn frames_are_kept_with_their_origin() {
    let relay = relay().await;
    let identity = Identity::enrolled(&relay);
    let mut endpoint = Endpoint::connect(&relay, &identity).await;
    let from = relay.next_frame();
    endpoint.wire.0.close(None).await.unwrap();
    let frame = relay
        .wait_for_frame(from, LONG, |frame| matches!(frame.body, FrameBody::Close(_)))
        .await
        .unwrap();
    assert_eq!(frame.session_id.as_deref(), Some(endpoint.session_id.as_str()));
    let hello = &relay.frames()[0];
    assert_eq!((hello.kind.as_str(), hello.number, hello.connection), ("EndpointHello", 0, 1));
    assert_eq!(hello.json()["endpoint_id"], identity.endpoint_id);
}
