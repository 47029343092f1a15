//! What an operator confirms.

use protocol::canonical::{CanonicalError, Json};
use protocol::signing::sha256_text;
use serde_json::Value;

/// A request in words.
pub fn summary(request: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!(
        "Will execute tool '{}' with params {} on endpoint {} as {}:{}",
        text(&request["tool"]),
        request["params"],
        text(&request["target_endpoint_id"]),
        text(&request["operator"]["kind"]),
        text(&request["operator"]["id"]),
    )
}

/// Binds a summary to its request: SHA-256 of the canonical request without its proof, a `|`, and
/// the summary.
pub fn hash(request: &Value, summary: &str) -> Result<String, CanonicalError> {
    let mut shown = request.clone();
    if let Some(operator) = shown.get_mut("operator").and_then(Value::as_object_mut) {
        operator.remove("auth_proof");
    }
    let mut bytes = Json::from_value(&shown)?.canonical();
    bytes.push(b'|');
    bytes.extend_from_slice(summary.as_bytes());
    Ok(sha256_text(&bytes))
}
