//! The closed schemas of everything an endpoint sends, checked field by field.
//!
//! Relays in the field check none of this. Here every departure is named, so that an agent that
//! passes is one a stricter relay would take as well.

mod fields;

use protocol::timestamp::Timestamp;
use serde_json::{Map, Value};

use fields::Fields;

/// Longest estimate an acknowledgement may give, in milliseconds.
const LONGEST_ESTIMATE: i64 = 600_000;

/// What is wrong with `frame`, a frame of type `kind`; nothing when it is as it should be. `None`
/// when endpoints send no such frame.
pub(crate) fn problems(kind: &str, frame: &Map<String, Value>) -> Option<Vec<String>> {
    let mut fields = Fields::new(frame);
    fields.skip("type");
    match kind {
        "EndpointHello" => hello(&mut fields),
        "CommandAck" => ack(&mut fields),
        "ProgressEvent" => progress(&mut fields),
        "CommandResult" => result(&mut fields),
        "ErrorEvent" => error(&mut fields),
        "HealthPing" | "HealthPong" => health(kind, &mut fields),
        _ => return None,
    }
    Some(fields.finish())
}

/// Whether `frame` is a failed result without its error, which no relay in the field survives.
pub(crate) fn fails_without_error(frame: &Map<String, Value>) -> bool {
    frame.get("lifecycle_state").and_then(Value::as_str) != Some("completed")
        && !frame.get("error").is_some_and(Value::is_object)
}

fn hello(fields: &mut Fields<'_>) {
    fields.text("endpoint_id", uuid);
    fields.text("tenant_id", filled);
    fields.text("agent_version", filled);
    fields.text("agent_protocol_version", |text| text == "v1");
    if let Some(mut proof) = fields.object("connection_proof") {
        proof.text("ts", time);
        proof.text("signature", signature);
        fields.take_problems("connection_proof", proof);
    }
}

/// The fields every frame about a command has.
fn of_command(fields: &mut Fields<'_>) {
    fields.text("command_id", uuid);
    of_session(fields);
}

fn of_session(fields: &mut Fields<'_>) {
    fields.text("endpoint_id", uuid);
    fields.text("session_id", uuid);
    fields.text("ts", time);
}

fn ack(fields: &mut Fields<'_>) {
    of_command(fields);
    fields.text("track", |text| matches!(text, "data_provider" | "mutator"));
    fields.truth("will_emit_progress");
    if fields.has("estimated_duration_ms") {
        fields.whole("estimated_duration_ms", 0, LONGEST_ESTIMATE);
    }
}

fn progress(fields: &mut Fields<'_>) {
    of_command(fields);
    fields.text("lifecycle_state", |text| matches!(text, "started" | "progress"));
    fields.whole("seq", 0, i64::MAX);
    if fields.has("progress")
        && let Some(mut progress) = fields.object("progress")
    {
        progress.number("fraction", 0.0, 1.0);
        progress.text("message", |_| true);
        fields.take_problems("progress", progress);
    }
}

fn error(fields: &mut Fields<'_>) {
    // A frame that could not be read has no command to name.
    if fields.has("command_id") {
        fields.text("command_id", uuid);
    } else {
        fields.skip("command_id");
    }
    of_session(fields);
    fields.text("code", |code| {
        ["ENDPOINT_", "SANDBOX_", "SYSTEM_"].iter().any(|prefix| code.starts_with(prefix))
            && code.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'))
    });
    fields.text("message", filled);
}

fn health(kind: &str, fields: &mut Fields<'_>) {
    fields.text("session_id", uuid);
    fields.text("ts", time);
    fields.text("ping_id", filled);
    if fields.has("endpoint_id") {
        fields.text("endpoint_id", uuid);
    }
    if kind == "HealthPong" {
        fields.text("agent_health", |text| matches!(text, "ok" | "degraded"));
        fields.text("sandbox_state", |text| matches!(text, "ready" | "resetting" | "failed"));
    }
}

fn result(fields: &mut Fields<'_>) {
    of_command(fields);
    fields.text("evidence_hash", hash);
    if fields.has("resumed") {
        fields.truth("resumed");
    }
    let passed = reset_state(fields);
    match fields.text("lifecycle_state", |text| matches!(text, "completed" | "failed")) {
        Some("completed") => {
            let _any_object = fields.object("payload");
            if fields.has("error") {
                fields.wrong("error", "is not null on a completed result");
            }
            match passed {
                Some(true) => {}
                Some(false) => fields.wrong("sandbox_reset_state", "did not pass on completed"),
                None => fields.wrong("sandbox_reset_state", "is missing on a completed result"),
            }
        }
        Some("failed") => {
            if fields.has("payload") {
                fields.wrong("payload", "is not null on a failed result");
            }
            if let Some(mut error) = fields.object("error") {
                error.text("code", filled);
                error.text("message", |_| true);
                fields.take_problems("error", error);
            }
        }
        _ => {}
    }
    fields.skip("payload");
    fields.skip("error");
}

/// Whether the reset is said to have passed; `None` without a reset state.
fn reset_state(fields: &mut Fields<'_>) -> Option<bool> {
    if !fields.has("sandbox_reset_state") {
        fields.skip("sandbox_reset_state");
        return None;
    }
    let mut state = fields.object("sandbox_reset_state")?;
    state.text("reset_at", time);
    state.text("golden_hash", hash);
    let passed = state.truth("verification_passed");
    if let Some(mut details) = state.object("verification_details") {
        let agree = verification(&mut details);
        let action = details.text("divergence_action", |text| matches!(text, "none" | "halt"));
        if passed == Some(true) && !agree {
            details.wrong("fs_hash_match", "and the other sources disagree, yet it passed");
        }
        if passed == Some(true) && action == Some("halt") {
            details.wrong("divergence_action", "is halt, yet it passed");
        }
        if passed == Some(false) && !agree && action == Some("none") {
            details.wrong("divergence_action", "is none, yet the sources disagree");
        }
        state.take_problems("verification_details", details);
    }
    fields.take_problems("sandbox_reset_state", state);
    passed
}

/// Whether the three sources agree with their baselines.
fn verification(details: &mut Fields<'_>) -> bool {
    let state = |text: &str| matches!(text, "running" | "stopped" | "paused" | "error");
    let fs = details.text("fs_hash", hash);
    let fs_baseline = details.text("fs_hash_baseline", hash);
    let fs_match = details.truth("fs_hash_match");
    // -1: the guest did not say.
    let descriptors = details.whole("open_fd_count", -1, i64::MAX);
    let descriptors_baseline = details.whole("open_fd_count_baseline", 0, i64::MAX);
    let vmm = details.text("vmm_api_state", state);
    let vmm_expected = details.text("expected_vmm_api_state", state);
    if fs_match.is_some_and(|fs_match| fs_match != (fs == fs_baseline)) {
        details.wrong("fs_hash_match", "contradicts the two hashes");
    }
    fs_match == Some(true) && descriptors == descriptors_baseline && vmm == vmm_expected
}

fn filled(text: &str) -> bool {
    !text.is_empty()
}

/// A UUID in its usual spelling, lower case.
fn uuid(text: &str) -> bool {
    text.len() == 36
        && uuid::Uuid::try_parse(text).is_ok_and(|uuid| uuid.hyphenated().to_string() == text)
}

/// RFC 3339.
fn time(text: &str) -> bool {
    Timestamp::parse(text).is_some()
}

/// `sha256:` and 64 lower-case hexadecimal digits.
fn hash(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|digits| {
        digits.len() == 64 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// 64 bytes in standard base64 with padding.
fn signature(text: &str) -> bool {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == 64)
}

#[cfg(test)]
mod tests;
