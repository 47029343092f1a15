use serde_json::{Map, Value, json};

use super::LONG;
use super::fake::{Endpoint, Identity, Wire};
use crate::operator::auth::{OperatorKey, ProofError};
use crate::operator::client::{
    Credentials, OperatorClient, OperatorError, Preview, Request, Told, loopback,
};
use crate::operator::preview;
use crate::{Config, DevRelay};

const TENANT: &str = "6e5b2e09-42f7-474d-a196-14a731771b84";

fn vector_key() -> OperatorKey {
    OperatorKey::derive("harness-api-key", "operator@local", TENANT)
}

fn vector_hello() -> Value {
    json!({"type": "OperatorHello", "client_protocol_version": "v1", "tenant_id": TENANT,
        "operator": {"kind": "human", "id": "operator@local",
            "auth_proof": {"mode": "hmac", "signature": ""}}})
}

fn vector_request() -> Value {
    json!({"type": "DispatchRequest", "request_id": "7f8a0000-0000-4000-8000-000000000001",
        "tool": "echo", "params": {"message": "hello"},
        "target_endpoint_id": "dc4a8b19-91c5-4c30-b66d-549dc96aea71", "tenant_id": TENANT,
        "correlation_id": "corr-0001",
        "operator": {"kind": "human", "id": "operator@local",
            "auth_proof": {"mode": "hmac", "signature": ""},
            "originating_human_id": "operator@local"},
        "options": {"auto_confirm": false, "stream_progress": true, "deadline_ms": 30000}})
}

fn signature(frame: &Value) -> &str {
    frame["operator"]["auth_proof"]["signature"].as_str().unwrap()
}

#[test]
fn the_key_is_derived_as_published() {
    let published = "d6160eca35967cfffcb37738fa4f324c6887a55f29dc1d0fd4f9f0ba20e4508b";
    for (place, byte) in vector_key().bytes().iter().enumerate() {
        assert_eq!(*byte, u8::from_str_radix(&published[2 * place..2 * place + 2], 16).unwrap());
    }
    assert_ne!(OperatorKey::derive("harness-api-key", "o", TENANT).bytes(), vector_key().bytes());
}

#[test]
fn frames_are_signed_as_published() {
    let mut hello = vector_hello();
    vector_key().sign(&mut hello).unwrap();
    assert_eq!(signature(&hello), "ZSIlWcsSH+Whx0T37WtLejf8BYV6JLLVJXLh5xjPR6U=");
    let mut request = vector_request();
    vector_key().sign(&mut request).unwrap();
    assert_eq!(signature(&request), "xyU8zQez/NOOXeMi1MMPnzoSoG4LbkQybycZs4NsIqA=");
    // The other shape in use signs its own words.
    let mut request = vector_request();
    request["operator"]["auth_proof"] = json!({"kind": "hmac_signed_envelope", "signature": ""});
    vector_key().sign(&mut request).unwrap();
    assert_eq!(signature(&request), "0qwGYi45AreE2+grWsOTNTjG7SFWycC2oRRYJphhd8M=");
}

#[test]
fn both_shapes_of_proof_are_accepted_and_no_other() {
    let key = vector_key();
    for shape in [json!({"mode": "hmac"}), json!({"kind": "hmac_signed_envelope"})] {
        let mut hello = vector_hello();
        hello["operator"]["auth_proof"] = shape;
        hello["operator"]["auth_proof"]["signature"] = json!("");
        key.sign(&mut hello).unwrap();
        assert_eq!(key.verify(&hello), Ok(()));
        hello["operator"]["kind"] = json!("agent");
        assert_eq!(key.verify(&hello), Err(ProofError::Invalid));
    }
    let with = |proof: Value| {
        let mut hello = vector_hello();
        hello["operator"]["auth_proof"] = proof;
        key.verify(&hello)
    };
    assert_eq!(with(Value::Null), Err(ProofError::Malformed));
    assert_eq!(with(json!({"mode": "hmac"})), Err(ProofError::Malformed));
    assert_eq!(with(json!({"mode": "none", "signature": "AA=="})), Err(ProofError::Malformed));
    let extra = json!({"mode": "hmac", "signature": "AA==", "more": 1});
    assert_eq!(with(extra), Err(ProofError::Malformed));
    assert_eq!(with(json!({"kind": "jwt", "token": "t"})), Err(ProofError::NotSupported));
    assert_eq!(with(json!({"mode": "hmac", "signature": "AA=="})), Err(ProofError::Invalid));
}

#[test]
fn a_preview_is_hashed_as_published() {
    let summary = preview::summary(&vector_request());
    assert_eq!(
        summary,
        "Will execute tool 'echo' with params {\"message\":\"hello\"} on endpoint \
         dc4a8b19-91c5-4c30-b66d-549dc96aea71 as human:operator@local"
    );
    assert_eq!(
        preview::hash(&vector_request(), &summary).unwrap(),
        "sha256:610f51eab1e4666c0625a86e2ca3fa9032d1df7f2ce52fd8c0020dc473d8c697"
    );
    let mut other = vector_request();
    other["params"]["message"] = json!("bye");
    assert_ne!(
        preview::hash(&other, &summary).unwrap(),
        preview::hash(&vector_request(), &summary).unwrap()
    );
}

#[test]
fn a_relay_elsewhere_is_no_address() {
    assert_eq!(loopback("ws://127.0.0.1:1/", "ws://").unwrap().port(), 1);
    assert_eq!(loopback("ws://localhost:2", "ws://").unwrap().port(), 2);
    for url in ["ws://192.0.2.1:1", "wss://127.0.0.1:1", "ws://relay.example:1", "ws://[::1]"] {
        assert_eq!(loopback(url, "ws://"), None, "{url}");
    }
}

struct Scene {
    relay: DevRelay,
    identity: Identity,
    endpoint: Endpoint,
    operator: OperatorClient,
}

fn credentials(relay: &DevRelay) -> Credentials {
    Credentials {
        api_key: relay.operator_api_key().to_owned(),
        operator_id: "operator@local".to_owned(),
        tenant_id: relay.tenant_id().to_owned(),
    }
}

async fn scene() -> Scene {
    let relay = DevRelay::start(Config::default()).await.unwrap();
    let identity = Identity::enrolled(&relay);
    let endpoint = Endpoint::connect(&relay, &identity).await;
    let operator = OperatorClient::connect(&relay.ws_url(), credentials(&relay)).await.unwrap();
    Scene { relay, identity, endpoint, operator }
}

impl Scene {
    fn request(&self) -> Request {
        let params = Map::from_iter([("message".to_owned(), json!("hello"))]);
        Request {
            endpoint_id: self.identity.endpoint_id.clone(),
            tool: "echo".to_owned(),
            params,
            deadline_ms: 30_000,
        }
    }

    async fn preview(&mut self) -> Preview {
        let request = self.request();
        self.operator.request(&request).await.unwrap()
    }

    async fn told(&mut self) -> Told {
        tokio::time::timeout(LONG, self.operator.next()).await.unwrap().unwrap()
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, OperatorError>) -> String {
    match result {
        Err(OperatorError::Refused { code, .. }) => code,
        other => panic!("a refusal, not {other:?}"),
    }
}

#[tokio::test]
async fn an_operator_walks_a_command_through() {
    let mut scene = scene().await;
    let preview = scene.preview().await;
    assert!(preview.summary.contains("'echo'"), "{}", preview.summary);
    assert_eq!(preview.frame["blast_radius"], "low");
    assert_eq!(preview.frame["reversibility"], "moderate");
    scene.operator.confirm(&preview, true).await.unwrap();
    let envelope = scene.endpoint.wire.frame().await;
    assert_eq!(envelope["command_id"], preview.command_id.as_str());
    assert_eq!(
        envelope["operator"],
        json!({"kind": "human", "id": "operator@local", "originating_human_id": "operator@local"})
    );
    for frame in [
        scene.endpoint.ack(&preview.command_id),
        scene.endpoint.progress(&preview.command_id, 1),
        scene.endpoint.completed(&preview.command_id),
    ] {
        scene.endpoint.wire.send(&frame).await;
    }
    let Told::Progress(started) = scene.told().await else { panic!("started") };
    assert_eq!(started["lifecycle_state"], "started");
    assert_eq!(started["request_id"], preview.request_id.as_str());
    let Told::Progress(progress) = scene.told().await else { panic!("progress") };
    assert_eq!(progress["progress"]["fraction"], 0.5);
    assert_eq!(progress.get("seq"), None);
    let Told::Result(result) = scene.told().await else { panic!("the result") };
    assert_eq!(result["lifecycle_state"], "completed");
    assert_eq!(result["payload"]["stdout"], "hello\n");
    assert_eq!(result["error"], Value::Null);
    // What only the relay's audit sees.
    assert_eq!(result.get("sandbox_reset_state"), None);
    assert!(scene.relay.violations().is_empty(), "{:?}", scene.relay.violations());
}

#[tokio::test]
async fn failures_reach_the_operator() {
    let mut scene = scene().await;
    let preview = scene.preview().await;
    scene.operator.confirm(&preview, true).await.unwrap();
    let id = &preview.command_id;
    let frames = [
        // A result before its acknowledgement is an error that ends nothing.
        scene.endpoint.failed(id, "SANDBOX_TOOL_ERROR"),
        scene.endpoint.ack(id),
        scene.endpoint.failed(id, "SANDBOX_TOOL_ERROR"),
    ];
    for frame in &frames {
        scene.endpoint.wire.send(frame).await;
    }
    let Told::Error(error) = scene.told().await else { panic!("an error") };
    assert_eq!(error["code"], "RELAY_INTERNAL_ERROR");
    let Told::Progress(_) = scene.told().await else { panic!("started") };
    let Told::Result(result) = scene.told().await else { panic!("the result") };
    assert_eq!(result["lifecycle_state"], "failed");
    assert_eq!(result["payload"], Value::Null);
    assert_eq!(result["error"]["code"], "SANDBOX_TOOL_ERROR");

    let preview = scene.preview().await;
    scene.operator.confirm(&preview, true).await.unwrap();
    let refusal = scene.endpoint.error(&preview.command_id, "ENDPOINT_POLICY_DENIED");
    scene.endpoint.wire.send(&refusal).await;
    let Told::Error(error) = scene.told().await else { panic!("an error") };
    assert_eq!(error["code"], "ENDPOINT_POLICY_DENIED");
    assert_eq!(error["message"], "refused");
    assert_eq!(error["command_id"], preview.command_id.as_str());
}

#[tokio::test]
async fn nothing_is_sent_that_was_not_confirmed() {
    let mut scene = scene().await;
    let mut preview = scene.preview().await;
    scene.operator.confirm(&preview, false).await.unwrap();
    let Told::Error(error) = scene.told().await else { panic!("an error") };
    assert_eq!(error["code"], "RELAY_OPERATOR_DECLINED");
    // A decision is final.
    scene.operator.confirm(&preview, true).await.unwrap();
    let Told::Error(error) = scene.told().await else { panic!("an error") };
    assert_eq!(error["code"], "RELAY_UNKNOWN_COMMAND_ID");

    preview = scene.preview().await;
    preview.hash = format!("sha256:{}", "f".repeat(64));
    scene.operator.confirm(&preview, true).await.unwrap();
    let Told::Error(error) = scene.told().await else { panic!("an error") };
    assert_eq!(error["code"], "RELAY_PREVIEW_HASH_MISMATCH");
    assert_eq!(scene.relay.open_commands(), 0);
}

#[tokio::test]
async fn requests_are_held_to_their_form() {
    let mut scene = scene().await;
    let mut request = scene.request();
    request.endpoint_id = TENANT.to_owned();
    let unreachable = scene.operator.request(&request).await;
    assert_eq!(refused(unreachable), "RELAY_ENDPOINT_UNREACHABLE");
    let mut request = scene.request();
    request.deadline_ms = 5;
    assert_eq!(refused(scene.operator.request(&request).await), "RELAY_REQUEST_INVALID");
    request.deadline_ms = 1000;
    request.tool = "t".repeat(257);
    assert_eq!(refused(scene.operator.request(&request).await), "RELAY_REQUEST_INVALID");

    let relay = &scene.relay;
    let key = OperatorKey::derive(relay.operator_api_key(), "operator@local", relay.tenant_id());
    let mut good = vector_request();
    good["tenant_id"] = relay.tenant_id().into();
    good["target_endpoint_id"] = scene.identity.endpoint_id.as_str().into();
    let mut wire = Wire::connect(relay, "/v1/operator").await;
    let mut hello = vector_hello();
    hello["tenant_id"] = relay.tenant_id().into();
    key.sign(&mut hello).unwrap();
    wire.send(&hello).await;
    assert_eq!(wire.frame().await["type"], "OperatorHelloAck");
    let cases = [
        ("/correlation_id", json!("two words"), "CORRELATION_ID_INVALID"),
        ("/correlation_id", json!(""), "CORRELATION_ID_INVALID"),
        ("/tenant_id", json!("another"), "AUTH_TENANT_MISMATCH"),
        ("/operator/id", json!("another"), "OPERATOR_IDENTITY_MISMATCH"),
        ("/operator/kind", json!("robot"), "RELAY_REQUEST_INVALID"),
        ("/params", json!([]), "RELAY_REQUEST_INVALID"),
        ("/type", json!("Gossip"), "RELAY_REQUEST_INVALID"),
    ];
    for (pointer, value, code) in cases {
        let mut request = good.clone();
        *request.pointer_mut(pointer).unwrap() = value;
        key.sign(&mut request).unwrap();
        wire.send(&request).await;
        let answer = wire.frame().await;
        assert_eq!(answer["code"], code, "{pointer}");
        assert_eq!(answer["request_id"], good["request_id"]);
    }
    // Without a signature.
    wire.send(&good).await;
    assert_eq!(wire.frame().await["code"], "AUTH_INVALID_PROOF");
    key.sign(&mut good).unwrap();
    wire.send(&good).await;
    assert_eq!(wire.frame().await["type"], "ChangeSetPreview");
}

#[tokio::test]
async fn strangers_are_not_let_in() {
    let scene = scene().await;
    let good = credentials(&scene.relay);
    let url = scene.relay.ws_url();
    let wrong = Credentials { api_key: "guessed".to_owned(), ..good.clone() };
    let result = OperatorClient::connect(&url, wrong).await.map(|_| ());
    assert_eq!(refused(result), "AUTH_INVALID_PROOF");
    let wrong = Credentials { tenant_id: "another".to_owned(), ..good };
    let result = OperatorClient::connect(&url, wrong).await.map(|_| ());
    assert_eq!(refused(result), "AUTH_TENANT_MISMATCH");
    for first in ["null", "junk", r#"{"type":"OperatorHello"}"#, r#"{"type":"DispatchRequest"}"#] {
        let mut wire = Wire::connect(&scene.relay, "/v1/operator").await;
        wire.send_text(first).await;
        let answer = wire.frame().await;
        assert_eq!(answer["code"], "AUTH_MALFORMED", "{first}");
        assert_eq!(answer["request_id"], "(no-request-id)");
        assert_eq!(wire.closed().await.0, 1008);
    }
}
