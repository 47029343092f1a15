mod inbound;
mod results;

use serde_json::{Value, json};

use super::WireState;
use super::*;
use crate::code::ErrorCode;
use crate::timestamp::Timestamp;

const TS: Timestamp = Timestamp::from_millis(1_767_323_045_678);
const TIME: &str = "2026-01-02T03:04:05.678Z";

fn value(frame: &impl Frame) -> Value {
    let text = frame.to_text();
    assert!(text.starts_with("{\"type\":\""), "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn acks() {
    let mut ack = CommandAck {
        command_id: "c".into(),
        endpoint_id: "e".into(),
        session_id: "s".into(),
        track: Track::DataProvider,
        will_emit_progress: false,
        estimated_duration_ms: None,
        ts: TS,
    };
    let mut expected = json!({
        "type": "CommandAck", "command_id": "c", "endpoint_id": "e", "session_id": "s",
        "track": "data_provider", "will_emit_progress": false, "ts": TIME,
    });
    assert_eq!(value(&ack), expected);
    ack.track = Track::Mutator;
    ack.estimated_duration_ms = Some(5);
    expected["track"] = "mutator".into();
    expected["estimated_duration_ms"] = 5.into();
    assert_eq!(value(&ack), expected);
}

#[test]
fn progress() {
    let mut event = ProgressEvent {
        command_id: "c".into(),
        endpoint_id: "e".into(),
        session_id: "s".into(),
        lifecycle_state: ProgressState::Started,
        seq: 1,
        progress: None,
        ts: TS,
    };
    let mut expected = json!({
        "type": "ProgressEvent", "command_id": "c", "endpoint_id": "e", "session_id": "s",
        "lifecycle_state": "started", "seq": 1, "ts": TIME,
    });
    assert_eq!(value(&event), expected);
    event.lifecycle_state = ProgressState::Progress;
    event.progress = Some(Progress { fraction: 0.5, message: "half".into() });
    expected["lifecycle_state"] = "progress".into();
    expected["progress"] = json!({"fraction": 0.5, "message": "half"});
    assert_eq!(value(&event), expected);
}

#[test]
fn errors() {
    let mut event = ErrorEvent {
        command_id: NO_COMMAND.into(),
        endpoint_id: "e".into(),
        session_id: "s".into(),
        code: ErrorCode::SchemaInvalid,
        message: "m".into(),
        ts: TS,
    };
    let mut expected = json!({
        "type": "ErrorEvent", "command_id": NO_COMMAND, "endpoint_id": "e", "session_id": "s",
        "code": "ENDPOINT_SCHEMA_INVALID", "message": "m", "ts": TIME,
    });
    assert_eq!(value(&event), expected);
    event.command_id = "c".into();
    event.code = ErrorCode::SandboxOther("SANDBOX_BOOT_FAILED");
    expected["command_id"] = "c".into();
    expected["code"] = "SANDBOX_BOOT_FAILED".into();
    assert_eq!(value(&event), expected);
}

#[test]
fn health() {
    let ping = HealthPing { session_id: "s".into(), ts: TS, ping_id: "p".into() };
    let expected = json!({"type": "HealthPing", "session_id": "s", "ts": TIME, "ping_id": "p"});
    assert_eq!(value(&ping), expected);
    let answer = HealthPong {
        session_id: "s".into(),
        ts: TS,
        ping_id: "p".into(),
        agent_health: AgentHealth::Degraded,
        sandbox_state: WireState::Resetting,
        endpoint_id: "e".into(),
    };
    let expected = json!({
        "type": "HealthPong", "session_id": "s", "ts": TIME, "ping_id": "p",
        "agent_health": "degraded", "sandbox_state": "resetting", "endpoint_id": "e",
    });
    assert_eq!(value(&answer), expected);
}
