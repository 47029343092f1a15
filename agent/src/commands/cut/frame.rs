//! Cuts a result that was made for longer frames.

use protocol::code::ErrorCode;
use serde_json::{Value, json};

use super::{OutputStream, STREAMS, cut_middle, encoded_len, put_streams};

/// A last answer with less output, or with a shorter message, so that its frame has at most `bound`
/// bytes. A result that cannot be cut so far is replaced by a failed one that says so. `None` when the
/// text is no JSON object.
pub(in crate::commands) fn cut_frame(text: &str, bound: usize) -> Option<String> {
    let mut value: Value = serde_json::from_str(text).ok()?;
    let is_result = value.as_object()?.get("type").and_then(Value::as_str) == Some("CommandResult");
    if text.len() <= bound {
        return Some(text.to_owned());
    }
    cut_payload(&mut value, bound);
    for message in ["/error/message", "/message"] {
        cut_message(&mut value, message, bound);
    }
    let cut = value.to_string();
    if cut.len() <= bound || !is_result {
        return Some(cut);
    }
    Some(too_long(value, bound).to_string())
}

fn cut_payload(value: &mut Value, bound: usize) {
    let Some(Value::Object(payload)) = value.get_mut("payload") else { return };
    let streams = STREAMS.map(|name| OutputStream::take(payload, name));
    // With the marks of streams that are cut.
    put_streams(payload, streams.clone(), 0);
    let rest = value.to_string().len();
    let Some(Value::Object(payload)) = value.get_mut("payload") else { return };
    for name in STREAMS {
        OutputStream::take(payload, name);
    }
    put_streams(payload, streams, bound.saturating_sub(rest));
}

/// The last line may be the heads of the chains: it stays.
fn cut_message(value: &mut Value, field: &str, bound: usize) {
    let Some(Value::String(message)) = value.pointer_mut(field) else { return };
    let whole = std::mem::take(message);
    let rest = value.to_string().len();
    let (body, last) = match whole.rfind("\nchains: ") {
        Some(at) => whole.split_at(at),
        None => (whole.as_str(), ""),
    };
    let room = bound.saturating_sub(rest).saturating_sub(encoded_len(last));
    let mut cut = cut_middle(body.to_owned(), room);
    cut.push_str(last);
    if let Some(message) = value.pointer_mut(field) {
        *message = cut.into();
    }
}

/// In place of a result whose parts beside output and message are too long.
fn too_long(mut value: Value, bound: usize) -> Value {
    let message = message_of_too_long(bound);
    value["lifecycle_state"] = "failed".into();
    value["payload"] = Value::Null;
    value["error"] = json!({"code": ErrorCode::Internal.as_str(), "message": message});
    if let Some(fields) = value.as_object_mut() {
        fields.remove("sandbox_reset_state");
    }
    value
}

/// What a failed result says that stands for one that is too long.
pub(in crate::commands) fn message_of_too_long(bound: usize) -> String {
    format!(
        "the result does not fit into a frame of {bound} bytes, which is what the relay takes; it \
         is in the evidence on this endpoint"
    )
}
