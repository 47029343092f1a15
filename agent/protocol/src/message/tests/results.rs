use super::*;

fn head() -> ResultHead {
    ResultHead {
        command_id: "c".into(),
        endpoint_id: "e".into(),
        session_id: "s".into(),
        evidence_hash: "sha256:00".into(),
        ts: TS,
    }
}

fn reset(passed: bool) -> SandboxResetState {
    SandboxResetState {
        reset_at: TIME.into(),
        golden_hash: "sha256:01".into(),
        verification_passed: passed,
        verification_details: VerificationDetails {
            fs_hash: "sha256:02".into(),
            fs_hash_baseline: "sha256:02".into(),
            fs_hash_match: true,
            open_fd_count: 3,
            open_fd_count_baseline: 3,
            vmm_api_state: "running".into(),
            expected_vmm_api_state: "running".into(),
            divergence_action: if passed { "none" } else { "halt" }.into(),
        },
    }
}

fn payload() -> Value {
    json!({"stdout": "hi\n", "stderr": "", "exit_code": 0})
}

fn completed() -> CommandResult {
    CommandResult::completed(head(), payload(), reset(true)).unwrap()
}

fn failed() -> CommandResult {
    CommandResult::failed(head(), ErrorCode::SandboxToolTimeout, "too slow", None)
}

#[test]
fn a_completed_result() {
    let expected = json!({
        "type": "CommandResult", "command_id": "c", "endpoint_id": "e", "session_id": "s",
        "lifecycle_state": "completed", "payload": payload(), "error": null,
        "evidence_hash": "sha256:00", "sandbox_reset_state": reset(true), "resumed": false,
        "ts": TIME,
    });
    assert_eq!(value(&completed()), expected);
    assert_eq!(expected["sandbox_reset_state"].as_object().unwrap().len(), 4);
    let details = &expected["sandbox_reset_state"]["verification_details"];
    assert_eq!(details.as_object().unwrap().len(), 8);
}

#[test]
fn a_failed_result_always_has_its_error() {
    let mut expected = json!({
        "type": "CommandResult", "command_id": "c", "endpoint_id": "e", "session_id": "s",
        "lifecycle_state": "failed", "payload": null,
        "error": {"code": "SANDBOX_TOOL_TIMEOUT", "message": "too slow"},
        "evidence_hash": "sha256:00", "resumed": false, "ts": TIME,
    });
    assert_eq!(value(&failed()), expected);
    let code = ErrorCode::ResetVerificationDivergence;
    let diverged = CommandResult::failed(head(), code, "too slow", Some(reset(false)));
    expected["error"]["code"] = "ENDPOINT_RESET_VERIFICATION_DIVERGENCE".into();
    expected["sandbox_reset_state"] = json!(reset(false));
    assert_eq!(value(&diverged), expected);
}

#[test]
fn a_completed_result_needs_a_clean_machine_and_a_payload_that_can_be_sent() {
    let make = |payload, passed| CommandResult::completed(head(), payload, reset(passed));
    assert_eq!(make(payload(), false), Err(IllegalResult::NotVerified));
    assert_eq!(make(json!(null), true), Err(IllegalResult::Completed));
    assert_eq!(make(json!([1]), true), Err(IllegalResult::Completed));
    let colliding = json!({"a": {"caf\u{e9}": 1, "cafe\u{301}": 2}});
    assert!(matches!(make(colliding, true), Err(IllegalResult::Payload(_))));
}

#[test]
fn a_result_survives_the_journal() {
    for result in [completed(), failed()] {
        let text = result.to_text();
        assert_eq!(serde_json::from_str::<CommandResult>(&text).unwrap(), result);
    }
}

#[test]
fn the_journal_brings_no_result_that_the_protocol_forbids() {
    let damaged = |result: &CommandResult, field: &str, put: Value| {
        let mut value = value(result);
        value[field] = put;
        serde_json::from_value::<CommandResult>(value)
    };
    let (completed, failed) = (completed(), failed());
    assert!(
        damaged(&completed, "resumed", true.into()).is_ok(),
        "it is the damage that is refused"
    );
    for (result, field, put) in [
        (&completed, "payload", json!(null)),
        (&completed, "error", json!({"code": "x", "message": "y"})),
        (&completed, "sandbox_reset_state", json!(null)),
        (&completed, "sandbox_reset_state", json!(reset(false))),
        (&completed, "lifecycle_state", "failed".into()),
        (&completed, "lifecycle_state", "timed_out".into()),
        (&failed, "payload", payload()),
        (&failed, "error", json!(null)),
        (&failed, "lifecycle_state", "completed".into()),
        (&failed, "ts", "yesterday".into()),
    ] {
        assert!(damaged(result, field, put.clone()).is_err(), "{field}: {put}");
    }
}

#[test]
fn a_resumed_result_has_the_new_session_and_says_so() {
    let later = TS.plus_millis(1);
    let resumed = completed().resumed("s2", later);
    assert_eq!(resumed.session_id(), "s2");
    let mut expected = value(&completed());
    expected["session_id"] = "s2".into();
    expected["resumed"] = true.into();
    expected["ts"] = json!(later);
    assert_eq!(value(&resumed), expected);
}
