use serde_json::{Value, json};

use super::{fails_without_error, problems};

const COMMAND: &str = "3f2b8c1e-7d4a-4e9b-9c55-0123456789ab";
const ENDPOINT: &str = "dc4a8b19-91c5-4c30-b66d-549dc96aea71";
const SESSION: &str = "65b162bd-0578-4700-82a5-a3458aba016d";
const TIME: &str = "2026-01-02T03:04:05.678Z";

fn hash() -> String {
    format!("sha256:{}", "0a".repeat(32))
}

fn of_command(kind: &str, more: Value) -> Value {
    let mut frame = json!({
        "type": kind, "command_id": COMMAND, "endpoint_id": ENDPOINT, "session_id": SESSION,
        "ts": TIME,
    });
    let Value::Object(more) = more else { panic!("an object") };
    frame.as_object_mut().unwrap().extend(more);
    frame
}

fn ack() -> Value {
    of_command("CommandAck", json!({"track": "mutator", "will_emit_progress": false}))
}

fn completed() -> Value {
    of_command(
        "CommandResult",
        json!({
            "lifecycle_state": "completed",
            "payload": {"stdout": "", "stderr": "", "exit_code": 0, "anything": [1]},
            "error": null,
            "evidence_hash": hash(),
            "sandbox_reset_state": {
                "reset_at": TIME, "golden_hash": hash(), "verification_passed": true,
                "verification_details": {
                    "fs_hash": hash(), "fs_hash_baseline": hash(), "fs_hash_match": true,
                    "open_fd_count": 3, "open_fd_count_baseline": 3, "vmm_api_state": "running",
                    "expected_vmm_api_state": "running", "divergence_action": "none",
                },
            },
            "resumed": false,
        }),
    )
}

fn failed() -> Value {
    of_command(
        "CommandResult",
        json!({
            "lifecycle_state": "failed", "evidence_hash": hash(),
            "error": {"code": "SANDBOX_TOOL_ERROR", "message": ""},
        }),
    )
}

fn wrong(frame: &Value) -> Vec<String> {
    problems(frame["type"].as_str().unwrap(), frame.as_object().unwrap()).unwrap()
}

/// Replaces what `pointer` points at in `frame`, or removes it, and gives the complaints.
fn with(mut frame: Value, pointer: &str, value: Option<Value>) -> Vec<String> {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = frame.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => parent.insert(name.to_owned(), value),
        None => parent.remove(name),
    };
    wrong(&frame)
}

#[test]
fn good_frames_pass() {
    let good = [
        json!({"type": "EndpointHello", "endpoint_id": ENDPOINT, "tenant_id": "tenant-local",
            "agent_version": "0.1.0", "agent_protocol_version": "v1",
            "connection_proof": {"ts": TIME, "signature": "ks8n7oJSqsbwqqiPpwdN5KP53TU/Z9YGdzxJSqDWhsdbjJMC82WZjnCOFXqGIAhpmRZL68pcjqs8sW8o2f2XDQ=="}}),
        ack(),
        of_command(
            "CommandAck",
            json!({"track": "data_provider", "will_emit_progress": true,
            "estimated_duration_ms": 600_000}),
        ),
        of_command("ProgressEvent", json!({"lifecycle_state": "started", "seq": 1})),
        of_command(
            "ProgressEvent",
            json!({"lifecycle_state": "progress", "seq": 2,
            "progress": {"fraction": 0.5, "message": ""}}),
        ),
        completed(),
        failed(),
        of_command("ErrorEvent", json!({"code": "ENDPOINT_NONCE_REPLAY", "message": "seen"})),
        json!({"type": "ErrorEvent", "endpoint_id": ENDPOINT, "session_id": SESSION, "ts": TIME,
            "code": "ENDPOINT_SCHEMA_INVALID", "message": "not JSON", "command_id": null}),
        json!({"type": "HealthPing", "session_id": SESSION, "ts": TIME, "ping_id": "1"}),
        json!({"type": "HealthPong", "session_id": SESSION, "ts": TIME, "ping_id": "1",
            "agent_health": "ok", "sandbox_state": "ready", "endpoint_id": ENDPOINT}),
    ];
    for frame in good {
        assert_eq!(wrong(&frame), Vec::<String>::new(), "{frame}");
    }
}

#[test]
fn every_field_of_a_completed_result_is_held_to_its_form() {
    let details = "/sandbox_reset_state/verification_details";
    let bad = [
        ("/command_id".to_owned(), Some(json!("cmd-1"))),
        ("/command_id".to_owned(), Some(json!(COMMAND.to_uppercase()))),
        ("/endpoint_id".to_owned(), None),
        ("/session_id".to_owned(), Some(json!(7))),
        ("/ts".to_owned(), Some(json!("yesterday"))),
        ("/lifecycle_state".to_owned(), Some(json!("timed_out"))),
        ("/payload".to_owned(), Some(json!([]))),
        ("/payload".to_owned(), None),
        ("/error".to_owned(), Some(json!({"code": "X", "message": "Y"}))),
        ("/evidence_hash".to_owned(), None),
        ("/evidence_hash".to_owned(), Some(json!("sha256:hash-chain-not-yet-implemented"))),
        ("/resumed".to_owned(), Some(json!("no"))),
        ("/sandbox_reset_state".to_owned(), None),
        ("/sandbox_reset_state/golden_hash".to_owned(), Some(json!("sha256:AB"))),
        ("/sandbox_reset_state/verification_passed".to_owned(), Some(json!(false))),
        ("/sandbox_reset_state/extra".to_owned(), Some(json!(1))),
        (format!("{details}/fs_hash_match"), Some(json!(false))),
        (format!("{details}/open_fd_count"), Some(json!(-1))),
        (format!("{details}/open_fd_count"), Some(json!(4))),
        (format!("{details}/vmm_api_state"), Some(json!("Running"))),
        (format!("{details}/expected_vmm_api_state"), None),
        (format!("{details}/divergence_action"), Some(json!("halt"))),
        (format!("{details}/extra"), Some(json!(1))),
        ("/extra".to_owned(), Some(json!(1))),
    ];
    for (pointer, value) in bad {
        let complaints = with(completed(), &pointer, value.clone());
        assert!(!complaints.is_empty(), "{pointer} = {value:?}");
    }
}

#[test]
fn a_failed_result_has_an_error_and_no_payload() {
    assert!(!with(failed(), "/payload", Some(json!({}))).is_empty());
    assert!(!with(failed(), "/error", None).is_empty());
    assert!(!with(failed(), "/error/extra", Some(json!(1))).is_empty());
    assert_eq!(with(failed(), "/payload", Some(Value::Null)), Vec::<String>::new());
    assert!(fails_without_error(&serde_json::from_str("{\"error\":null}").unwrap()));
    assert!(!fails_without_error(failed().as_object().unwrap()));
    assert!(!fails_without_error(completed().as_object().unwrap()));
}

#[test]
fn other_frames_are_held_to_their_form() {
    assert!(!with(ack(), "/track", Some(json!("reader"))).is_empty());
    assert!(!with(ack(), "/will_emit_progress", None).is_empty());
    assert!(!with(ack(), "/estimated_duration_ms", Some(json!(600_001))).is_empty());
    assert!(!with(ack(), "/estimated_duration_ms", Some(json!(1.5))).is_empty());
    let progress = of_command(
        "ProgressEvent",
        json!({"lifecycle_state": "progress", "seq": 2, "progress": {"fraction": 0.5, "message": ""}}),
    );
    assert!(!with(progress.clone(), "/seq", None).is_empty());
    assert!(!with(progress.clone(), "/progress/fraction", Some(json!(1.1))).is_empty());
    assert!(!with(progress, "/lifecycle_state", Some(json!("completed"))).is_empty());
    let error = of_command("ErrorEvent", json!({"code": "ENDPOINT_X", "message": "m"}));
    assert!(!with(error.clone(), "/code", Some(json!("SIGNATURE_INVALID"))).is_empty());
    assert!(!with(error.clone(), "/message", Some(json!(""))).is_empty());
    assert!(!with(error, "/command_id", Some(json!("x"))).is_empty());
}

#[test]
fn a_type_no_endpoint_sends_is_unknown() {
    for kind in ["", "CommandEnvelope", "EndpointHelloAck", "commandack"] {
        assert_eq!(problems(kind, &serde_json::Map::new()), None);
    }
}
