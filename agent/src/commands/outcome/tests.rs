use std::time::Duration;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use guest::registry::MAX_OUTPUT_BYTES;
use proptest::prelude::*;

use super::*;
use protocol::Timestamp;
use protocol::message::{DEFAULT_FRAME_BYTES, MAX_FRAME_BYTES};
use sandbox::verify::{Finding, Location, RunState, Source};
use sandbox::{PartialOutput, StoppedBy};

const ID: &str = "3f2b8c1e-7d4a-4e9b-9c55-0123456789ab";

fn ran(exit_code: i32, stdout: &[u8], stderr: &[u8]) -> ToolOutcome {
    ToolOutcome {
        stderr: stderr.to_vec(),
        stderr_total: stderr.len() as u64,
        evidence_hash: "sha256:11".into(),
        ..ToolOutcome::of_stdout(ID, exit_code, stdout)
    }
}

fn verified() -> Verification {
    let reset_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_323_045_678);
    Verification::agreeing(reset_at, "sha256:aa", "sha256:bb", 6)
}

fn finding() -> Finding {
    Finding::new(Source::Guest, Location::Descriptors, 6, 9)
}

fn outcome_of(
    result: Result<ToolOutcome, Failure>,
    reset: Option<Result<Verification, SandboxError>>,
) -> Outcome {
    let (execute, reset_took) = (Duration::ZERO, Duration::ZERO);
    Outcome::of_execution(ID, &Executed { result, reset, execute, reset_took }, DEFAULT_FRAME_BYTES)
}

fn problem(outcome: &Outcome) -> (&'static str, &str) {
    let problem = outcome.verdict.as_ref().unwrap_err();
    (problem.code.as_str(), &problem.message)
}

#[test]
fn a_tool_that_ended_well_on_a_verified_machine_has_completed() {
    let outcome = outcome_of(Ok(ran(0, b"hello\n", b"note")), Some(Ok(verified())));
    let payload = json!({"exit_code": 0, "stdout": "hello\n", "stderr": "note"});
    assert_eq!(outcome.verdict, Ok(payload));
    assert_eq!(outcome.evidence_hash, "sha256:11");
    let reset = outcome.reset.unwrap();
    assert!(reset.verification_passed);
    assert_eq!(reset.reset_at, "2026-01-02T03:04:05.678Z");
    assert_eq!(reset.verification_details.divergence_action, "none");
}

#[test]
fn bytes_that_are_no_text_and_cuts_are_told() {
    let mut tool = ran(0, b"\xff\0x", b"");
    (tool.stdout_truncated, tool.stdout_total) = (true, 99);
    let payload = outcome_of(Ok(tool), Some(Ok(verified()))).verdict.unwrap();
    assert_eq!(payload["stdout"], "");
    assert_eq!(payload["stdout_base64"], STANDARD.encode(b"\xff\0x"));
    assert_eq!(payload["stdout_truncated"], true);
    assert_eq!(payload["stdout_total_bytes"], 99);
    assert!(payload.get("stderr_base64").is_none());
}

#[test]
fn what_was_not_verified_is_a_failure_whatever_the_tool_did() {
    let outcome = outcome_of(Ok(ran(0, b"", b"")), None);
    assert_eq!(problem(&outcome).0, "ENDPOINT_RESET_VERIFICATION_TIMEOUT");
    assert_eq!(outcome.reset, None);

    let reason = "no".to_owned();
    let outcome = outcome_of(Ok(ran(0, b"", b"")), Some(Err(SandboxError::ResetFailed { reason })));
    assert_eq!(problem(&outcome).0, "ENDPOINT_RESET_FAILED");

    let silent = Verification { silent: true, descriptors: None, ..verified() };
    let outcome = outcome_of(Ok(ran(0, b"", b"")), Some(Ok(silent)));
    assert_eq!(problem(&outcome).0, "ENDPOINT_RESET_VERIFICATION_TIMEOUT");
    assert!(!outcome.reset.unwrap().verification_passed);
}

#[test]
fn a_source_that_disagrees_fails_the_command_and_is_named() {
    let cases = [
        Verification { disk_hash: Some("sha256:cc".into()), ..verified() },
        Verification { descriptors: Some(7), ..verified() },
        Verification { run_state: RunState::Paused, ..verified() },
    ];
    for verification in cases {
        let findings = vec![finding()];
        let outcome =
            outcome_of(Ok(ran(0, b"", b"")), Some(Ok(Verification { findings, ..verification })));
        let (code, message) = problem(&outcome);
        assert_eq!(code, "ENDPOINT_RESET_VERIFICATION_DIVERGENCE");
        assert!(message.contains("open descriptors is 9, was 6"), "{message}");
        let reset = outcome.reset.as_ref().unwrap();
        assert!(!reset.verification_passed);
        assert_eq!(reset.verification_details.divergence_action, "halt");
    }
}

#[test]
fn a_tool_that_failed_says_how_with_bounded_tails() {
    let noise = [b'x'; 5000];
    let outcome = outcome_of(Ok(ran(3, &noise, b"cannot\n")), Some(Ok(verified())));
    let (code, message) = problem(&outcome);
    assert_eq!(code, "SANDBOX_TOOL_ERROR");
    assert!(message.starts_with("tool exited with 3\n"), "{message}");
    assert!(message.contains("stdout (last 2048 of 5000 bytes): xxx"), "{message}");
    assert!(message.ends_with("\nstderr: cannot"), "{message}");
    assert!(message.len() < 3000);
    assert!(outcome.reset.unwrap().verification_passed);
}

#[test]
fn a_deadline_is_a_timeout_whoever_enforced_it() {
    let mut tool = ran(137, b"half", b"");
    tool.reason = Some(ResultReason::DeadlineExceeded);
    let outcome = outcome_of(Ok(tool), Some(Ok(verified())));
    assert_eq!(problem(&outcome).0, "SANDBOX_TOOL_TIMEOUT");

    let partial = PartialOutput { stdout: b"half".to_vec(), ..PartialOutput::default() };
    let (deadline_ms, stopped_by, partial) = (50, StoppedBy::Host, Box::new(partial));
    let error = SandboxError::ToolTimeout { deadline_ms, stopped_by, partial };
    let outcome = outcome_of(Err(error.into()), Some(Ok(verified())));
    let (code, message) = problem(&outcome);
    assert_eq!(code, "SANDBOX_TOOL_TIMEOUT");
    assert!(message.ends_with("stdout: half"), "{message}");
    assert_eq!(outcome.evidence_hash, empty_evidence(ID));
}

#[test]
fn the_reset_speaks_first_when_both_failed() {
    let findings = vec![finding()];
    let bad = Verification { descriptors: Some(9), findings, ..verified() };
    let outcome = outcome_of(Ok(ran(3, b"", b"oops")), Some(Ok(bad)));
    let (code, message) = problem(&outcome);
    assert_eq!(code, "ENDPOINT_RESET_VERIFICATION_DIVERGENCE");
    assert!(message.contains("descriptors is 9") && message.contains("exited with 3"), "{message}");
}

#[test]
fn a_command_without_a_machine_needs_no_verification() {
    let failure = Failure {
        code: "ENDPOINT_SANDBOX_NOT_READY",
        message: "full".into(),
        partial: PartialOutput::default(),
    };
    let outcome = outcome_of(Err(failure), None);
    assert_eq!(problem(&outcome), ("ENDPOINT_SANDBOX_NOT_READY", "full"));
}

#[test]
fn no_output_has_the_evidence_of_one_empty_chunk() {
    let known = "sha256:da549b24ae8055cc501280eb3b430466044e43851ed27fb5c918475b070d8264";
    assert_eq!(empty_evidence(ID), known);
}

#[test]
fn heads_of_the_chains_are_in_the_payload_or_the_last_line() {
    let head = AuditHead { seq: 12, hash: format!("sha256:{}", "c".repeat(64)) };
    let mut outcome = outcome_of(Ok(ran(0, b"hello\n", b"")), Some(Ok(verified())));
    outcome.anchor(head.clone());
    let chains = json!({"audit": {"head": head.hash, "seq": 12}, "evidence": "sha256:11"});
    assert_eq!(outcome.verdict.unwrap()["chains"], chains);

    // A tool cannot put its own line last.
    let mut outcome = outcome_of(Ok(ran(1, b"", b"chains: {}\n")), Some(Ok(verified())));
    outcome.anchor(head);
    let (_, message) = problem(&outcome);
    let last = message.lines().last().unwrap().strip_prefix("chains: ").unwrap();
    assert_eq!(serde_json::from_str::<Value>(last).unwrap(), chains);
    let canonical = protocol::canonical_bytes(&chains).unwrap();
    assert_eq!(last.as_bytes(), canonical);
}

fn head() -> ResultHead {
    ResultHead {
        command_id: ID.into(),
        endpoint_id: ID.into(),
        session_id: ID.into(),
        evidence_hash: format!("sha256:{}", "a".repeat(64)),
        ts: Timestamp::from_millis(0),
    }
}

/// The frame of a command's result, as it is sent.
fn frame(result: Result<ToolOutcome, Failure>, bound: usize) -> String {
    let (execute, reset_took) = (Duration::ZERO, Duration::ZERO);
    let hash = format!("sha256:{}", "b".repeat(64));
    let reset = Verification::agreeing(SystemTime::now(), hash.clone(), hash.clone(), 6);
    let executed = Executed { result, reset: Some(Ok(reset)), execute, reset_took };
    let mut outcome = Outcome::of_execution(ID, &executed, bound);
    outcome.evidence_hash.clone_from(&hash);
    outcome.anchor(AuditHead { seq: u64::MAX, hash });
    outcome.into_result(head(), bound).to_text()
}

/// A stream of any length up to the longest that a tool may keep: a pattern, again and again.
fn output() -> impl Strategy<Value = Vec<u8>> {
    let pattern = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..40),
        any::<String>().prop_map(|text| [text.as_bytes(), b"\0"].concat()),
    ];
    let lengths = prop_oneof![Just(MAX_OUTPUT_BYTES as usize), 0..200_usize, 0..200_000_usize];
    (pattern, lengths)
        .prop_map(|(pattern, length)| pattern.into_iter().cycle().take(length).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_output_makes_a_frame_beyond_the_bound(
        stdout in output(),
        stderr in output(),
        exit_code in prop_oneof![Just(0), Just(1)],
        bound in prop_oneof![Just(8 << 10), Just(DEFAULT_FRAME_BYTES), Just(MAX_FRAME_BYTES)],
    ) {
        let text = frame(Ok(ran(exit_code, &stdout, &stderr)), bound);
        prop_assert!(text.len() <= bound, "{} bytes", text.len());
        let value: Value = serde_json::from_str(&text).unwrap();
        let wanted = if exit_code == 0 { "completed" } else { "failed" };
        prop_assert_eq!(&value["lifecycle_state"], wanted);
        let cut = stdout.len() + stderr.len() > bound;
        if exit_code == 0 && cut {
            prop_assert!(text.len() + cut::OVERHEAD >= bound / 2, "{} bytes of {bound}", text.len());
        }
    }
}

#[test]
fn a_message_of_any_length_is_cut_and_keeps_the_heads_of_the_chains() {
    let message = "\0".repeat(1 << 20);
    let failure = Failure { code: "X", message, partial: PartialOutput::default() };
    let text = frame(Err(failure), DEFAULT_FRAME_BYTES);
    assert!(text.len() <= DEFAULT_FRAME_BYTES, "{}", text.len());
    let value: Value = serde_json::from_str(&text).unwrap();
    let last = value["error"]["message"].as_str().unwrap().lines().last().unwrap();
    assert!(last.starts_with("chains: {"), "{last}");
}

#[test]
fn a_result_whose_other_parts_are_too_long_fails_and_says_so() {
    let mut outcome = outcome_of(Ok(ran(0, b"x", b"")), Some(Ok(verified())));
    outcome.reset.as_mut().unwrap().golden_hash = "x".repeat(DEFAULT_FRAME_BYTES);
    let result = outcome.into_result(head(), DEFAULT_FRAME_BYTES);
    assert!(result.to_text().len() <= DEFAULT_FRAME_BYTES);
    assert!(result.error().unwrap().message.contains("does not fit"));
}
