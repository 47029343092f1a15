//! The agent's own halves of the protocol, held against the relay's.

use guest::registry::Track;
use protocol::keyring::KeyRing;
use protocol::message::WireState;
use protocol::message::{
    AgentHealth, CommandAck, CommandResult, ConnectionProof, EndpointHello, ErrorEvent, Frame as _,
    HealthPing, HealthPong, Inbound, Progress, ProgressEvent, ProgressState, ResultHead,
    SandboxResetState, VerificationDetails, classify,
};
use protocol::verify::{Audience, verify};
use protocol::{ErrorCode, Timestamp};
use serde_json::{Value, json};

use super::LONG;
use super::fake::{Endpoint, Identity};
use crate::{Config, DevRelay, DispatchOptions, Raw};

const ID: &str = "dc4a8b19-91c5-4c30-b66d-549dc96aea71";

async fn pair() -> (DevRelay, Endpoint) {
    let relay = DevRelay::start(Config::default()).await.unwrap();
    let identity = Identity::enrolled(&relay);
    let endpoint = Endpoint::connect(&relay, &identity).await;
    (relay, endpoint)
}

fn ring(relay: &DevRelay) -> KeyRing {
    let text = format!(
        "[[key]]\nid = {:?}\npublic_key = {:?}\n",
        relay.signing_key_id(),
        relay.tenant_public_key_hex()
    );
    KeyRing::from_toml(&text).unwrap()
}

#[tokio::test]
async fn the_agent_takes_what_is_dispatched() {
    let (relay, mut endpoint) = pair().await;
    let params = json!({"message": "e\u{301}"});
    let options = DispatchOptions::default();
    let command = relay.dispatch(&endpoint.id, "echo", &params, &options).unwrap();
    let text = endpoint.wire.frame().await.to_string();
    assert_eq!(classify(&text), Inbound::Envelope);
    let audience = Audience {
        endpoint_id: &endpoint.id,
        tenant_id: relay.tenant_id(),
        session_id: &endpoint.session_id,
    };
    let envelope = verify(&text, &ring(&relay), &audience, Timestamp::now()).unwrap();
    assert_eq!(envelope.command_id, command.command_id());
    assert_eq!(envelope.params["message"], "\u{e9}");
}

#[tokio::test]
async fn the_agent_takes_unusual_envelopes() {
    let (relay, endpoint) = pair().await;
    let audience = Audience {
        endpoint_id: &endpoint.id,
        tenant_id: relay.tenant_id(),
        session_id: &endpoint.session_id,
    };
    for (message, envelope) in relay.unusual_envelopes(&endpoint.id).unwrap() {
        let text = envelope.text();
        let taken = verify(&text, &ring(&relay), &audience, Timestamp::now())
            .unwrap_or_else(|refusal| panic!("{refusal}: {text}"));
        assert_eq!(taken.params["message"], message, "{text}");
    }
}

#[tokio::test]
async fn the_agent_refuses_every_hostile_frame_for_the_right_reason() {
    let (relay, endpoint) = pair().await;
    let ring = ring(&relay);
    let audience = Audience {
        endpoint_id: &endpoint.id,
        tenant_id: relay.tenant_id(),
        session_id: &endpoint.session_id,
    };
    let hostile = relay.hostile_frames(&endpoint.id).unwrap();
    let mut envelopes = 0;
    for frame in &hostile {
        let Raw::Text(text) = &frame.raw else { continue };
        if classify(text) == Inbound::Envelope {
            let refusal = verify(text, &ring, &audience, Timestamp::now()).unwrap_err();
            assert_eq!(refusal.code.as_str(), frame.code, "{}: {refusal}", frame.name);
            envelopes += 1;
        }
    }
    assert!(envelopes > 60, "{envelopes} of {} frames are envelopes", hostile.len());
}

#[test]
fn every_frame_the_agent_can_send_passes_the_schemas() {
    let ts = Timestamp::now();
    let id = || ID.to_owned();
    let hash = || format!("sha256:{}", "0a".repeat(32));
    let reset = SandboxResetState {
        reset_at: ts.to_string(),
        golden_hash: hash(),
        verification_passed: true,
        verification_details: VerificationDetails {
            fs_hash: hash(),
            fs_hash_baseline: hash(),
            fs_hash_match: true,
            open_fd_count: 3,
            open_fd_count_baseline: 3,
            vmm_api_state: "running".to_owned(),
            expected_vmm_api_state: "running".to_owned(),
            divergence_action: "none".to_owned(),
        },
    };
    let head = || ResultHead {
        command_id: id(),
        endpoint_id: id(),
        session_id: id(),
        evidence_hash: hash(),
        ts,
    };
    let proof = ConnectionProof { ts: ts.to_string(), signature: "A".repeat(86) + "==" };
    let progress = Some(Progress { fraction: 0.5, message: String::new() });
    let completed = CommandResult::completed(head(), json!({"exit_code": 0}), reset).unwrap();
    let error = ErrorEvent {
        command_id: id(),
        endpoint_id: id(),
        session_id: id(),
        code: ErrorCode::SchemaInvalid,
        message: "not JSON".to_owned(),
        ts,
    };
    let texts = [
        EndpointHello {
            endpoint_id: id(),
            tenant_id: id(),
            agent_version: "0".to_owned(),
            agent_protocol_version: "v1".to_owned(),
            connection_proof: proof,
        }
        .to_text(),
        CommandAck {
            command_id: id(),
            endpoint_id: id(),
            session_id: id(),
            track: Track::Mutator,
            will_emit_progress: false,
            estimated_duration_ms: Some(1),
            ts,
        }
        .to_text(),
        ProgressEvent {
            command_id: id(),
            endpoint_id: id(),
            session_id: id(),
            lifecycle_state: ProgressState::Progress,
            seq: 1,
            progress,
            ts,
        }
        .to_text(),
        completed.to_text(),
        completed.resumed(ID, ts).to_text(),
        CommandResult::failed(head(), ErrorCode::SandboxToolError, "it failed", None).to_text(),
        error.to_text(),
        HealthPing { session_id: id(), ts, ping_id: id() }.to_text(),
        HealthPong {
            session_id: id(),
            ts,
            ping_id: id(),
            agent_health: AgentHealth::Degraded,
            sandbox_state: WireState::Resetting,
            endpoint_id: id(),
        }
        .to_text(),
    ];
    for text in texts {
        let frame: Value = serde_json::from_str(&text).unwrap();
        let problems =
            crate::schema::problems(frame["type"].as_str().unwrap(), frame.as_object().unwrap());
        assert_eq!(problems, Some(Vec::new()), "{text}");
    }
}

#[tokio::test]
async fn the_agent_understands_the_relays_own_frames() {
    let (relay, mut endpoint) = pair().await;
    relay.health_ping(&endpoint.id).unwrap();
    let ping = endpoint.wire.frame().await.to_string();
    assert!(matches!(classify(&ping), Inbound::HealthPing(_)), "{ping}");
    let session_id = endpoint.session_id.clone();
    let asked = HealthPing { session_id, ts: Timestamp::now(), ping_id: "p".to_owned() };
    endpoint.wire.send_text(&asked.to_text()).await;
    let answer = endpoint.wire.frame().await.to_string();
    assert!(matches!(classify(&answer), Inbound::HealthPong(_)), "{answer}");
    assert!(relay.violations().is_empty(), "{:?}", relay.violations());
    assert!(relay.wait_for_endpoint(&endpoint.id, LONG).await.is_some());
}
