//! Frames to a relay: whatever text is in them, they are JSON with one reading, and of their type.

use protocol::message::WireState;
use protocol::message::{
    AgentHealth, CommandAck, CommandResult, ConnectionProof, EndpointHello, ErrorEvent, Frame,
    HealthPing, HealthPong, Inbound, Progress, ProgressEvent, ProgressState, ResultHead, Track,
    classify,
};
use protocol::{ErrorCode, Json, Timestamp};
use serde_json::Value;

use crate::script::Script;

pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let millis = i64::from_le_bytes(script.long().to_le_bytes());
    let ts = Timestamp::from_millis(millis);
    let seq = script.long();
    let fraction = f64::from_bits(script.long());
    let mut text = || {
        let length = usize::from(script.byte());
        String::from_utf8_lossy(script.bytes(length)).into_owned()
    };
    let (command_id, endpoint_id, session_id, message) = (text(), text(), text(), text());
    let proof = ConnectionProof { ts: ts.to_string(), signature: text() };
    check(
        "EndpointHello",
        &EndpointHello {
            endpoint_id: endpoint_id.clone(),
            tenant_id: text(),
            agent_version: text(),
            agent_protocol_version: "v1".into(),
            connection_proof: proof,
        },
    );
    check(
        "CommandAck",
        &CommandAck {
            command_id: command_id.clone(),
            endpoint_id: endpoint_id.clone(),
            session_id: session_id.clone(),
            track: Track::Mutator,
            will_emit_progress: true,
            estimated_duration_ms: Some(seq),
            ts,
        },
    );
    check(
        "ProgressEvent",
        &ProgressEvent {
            command_id: command_id.clone(),
            endpoint_id: endpoint_id.clone(),
            session_id: session_id.clone(),
            lifecycle_state: ProgressState::Progress,
            seq,
            progress: Some(Progress { fraction, message: message.clone() }),
            ts,
        },
    );
    check(
        "ErrorEvent",
        &ErrorEvent {
            command_id: command_id.clone(),
            endpoint_id: endpoint_id.clone(),
            session_id: session_id.clone(),
            code: ErrorCode::SchemaInvalid,
            message: message.clone(),
            ts,
        },
    );
    check("HealthPing", &HealthPing { session_id: session_id.clone(), ts, ping_id: text() });
    check(
        "HealthPong",
        &HealthPong {
            session_id: session_id.clone(),
            ts,
            ping_id: text(),
            agent_health: AgentHealth::Ok,
            sandbox_state: WireState::Ready,
            endpoint_id: endpoint_id.clone(),
        },
    );
    let head = ResultHead { command_id, endpoint_id, session_id, evidence_hash: text(), ts };
    check("CommandResult", &CommandResult::failed(head, ErrorCode::ResetFailed, message, None));
}

fn check(kind: &str, frame: &impl Frame) {
    let text = frame.to_text();
    let json = Json::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(json.get("type").and_then(Json::as_str), Some(kind));
    assert!(!matches!(classify(&text), Inbound::Malformed { .. }) || kind.starts_with("Health"));
    let plain: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(plain["type"], kind);
}
