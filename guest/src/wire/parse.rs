//! From the body of a frame to a message, stricter than serde on its own.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde::de::value::StrDeserializer;
use thiserror::Error;

/// Most values one message may hold, counted as commas and opening brackets. A frame can name
/// eight million of them, and each takes a hundred times its text in memory; no message needs
/// more than a few hundred.
pub const MAX_VALUES: usize = 16_384;
/// Longest id of a request, in bytes. It is repeated in every answer, so without a limit a request
/// within the frame limit could have an answer beyond it, which cannot be sent.
pub const MAX_ID_BYTES: usize = 256;

/// Why a body is not a message.
#[derive(Debug, Error)]
pub enum MessageError {
    /// JSON of another kind, or none. Serde alone would take an array for a message.
    #[error("a message is a JSON object")]
    NotAnObject,
    /// More values than any message has.
    #[error("a message of more than {MAX_VALUES} values")]
    TooManyValues,
    /// Not a message, in the words of the parser.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// Reads a message. Memory is bounded by a small multiple of the body's length.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, MessageError> {
    check_shape(body)?;
    Ok(serde_json::from_slice(body)?)
}

/// Whom an answer to this body is for: its `request_id`, `command_id`, `query_id` or `reset_id`,
/// where it is an object that has one.
pub fn request_id(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[expect(clippy::struct_field_names, reason = "they are the protocol's")]
    struct Ids {
        request_id: Option<String>,
        command_id: Option<String>,
        query_id: Option<String>,
        reset_id: Option<String>,
    }
    check_shape(body).ok()?;
    let ids: Ids = serde_json::from_slice(body).ok()?;
    ids.request_id
        .or(ids.command_id)
        .or(ids.query_id)
        .or(ids.reset_id)
        .filter(|id| id.len() <= MAX_ID_BYTES)
}

/// For fields that hold one of a few names: serde alone also takes `{"name": null}`.
pub(super) fn name<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    let text = String::deserialize(deserializer)?;
    T::deserialize(StrDeserializer::new(&text))
}

/// For ids of requests.
pub(super) fn id<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    bounded(String::deserialize(deserializer)?)
}

/// For ids of requests that may be unknown.
pub(super) fn optional_id<'de, D>(deserializer: D) -> Result<Option<String>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    Option::<String>::deserialize(deserializer)?.map(bounded).transpose()
}

fn bounded<E: serde::de::Error>(id: String) -> Result<String, E> {
    if id.len() <= MAX_ID_BYTES {
        Ok(id)
    } else {
        Err(E::custom(format!("an id of {} bytes; the limit is {MAX_ID_BYTES}", id.len())))
    }
}

/// Looks at the body without building anything from it. What is not JSON at all is left for the
/// parser to say.
fn check_shape(body: &[u8]) -> Result<(), MessageError> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(MessageError::NotAnObject);
    }
    let (mut values, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => values += 1,
            _ => {}
        }
    }
    if values > MAX_VALUES { Err(MessageError::TooManyValues) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::{ENTROPY_BYTES, Freshness, HostMessage, QueryKind};
    use super::*;

    fn freshness() -> Value {
        json!(Freshness::new(1, &[7; ENTROPY_BYTES]))
    }

    fn refused(body: &str) -> MessageError {
        parse::<HostMessage>(body.as_bytes()).unwrap_err()
    }

    #[test]
    fn an_array_is_not_a_message() {
        let body = r#"["ResetSignal","r1","post_dispatch"]"#;
        // This is why the check exists.
        assert!(serde_json::from_str::<HostMessage>(body).is_ok());
        assert!(matches!(refused(body), MessageError::NotAnObject));
        assert!(matches!(refused(""), MessageError::NotAnObject));
        assert!(matches!(refused("null"), MessageError::NotAnObject));
    }

    #[test]
    fn a_name_is_a_string() {
        for body in [
            r#"{"type":"GuestQuery","query_id":"q","ts":"","query_kind":{"MemUsage":null}}"#,
            r#"{"type":"ResetSignal","reset_id":"r","reason":{"post_dispatch":null}}"#,
        ] {
            assert!(matches!(refused(body), MessageError::Json(_)), "{body}");
        }
        let kind: QueryKind = name(&json!("MemUsage")).unwrap();
        assert_eq!(kind, QueryKind::MemUsage);
    }

    #[test]
    fn an_id_has_a_longest_length() {
        let dispatch = format!(r#""tool":"t","freshness":{}"#, freshness());
        for (kind, key, rest) in [
            ("ToolDispatch", "command_id", dispatch.as_str()),
            ("GuestQuery", "query_id", r#""query_kind":"MemUsage","ts":"""#),
            ("ResetSignal", "reset_id", r#""reason":"on_idle""#),
        ] {
            let body = |length: usize| {
                let id = "x".repeat(length);
                format!(r#"{{"type":"{kind}","{key}":"{id}",{rest}}}"#)
            };
            assert!(parse::<HostMessage>(body(MAX_ID_BYTES).as_bytes()).is_ok(), "{kind}");
            let error = refused(&body(MAX_ID_BYTES + 1)).to_string();
            assert!(error.contains("an id of 257 bytes"), "{kind}: {error}");
        }
    }

    #[test]
    fn a_key_twice_is_refused() {
        let body = r#"{"type":"ResetSignal","reset_id":"a","reset_id":"b","reason":"on_idle"}"#;
        assert!(matches!(refused(body), MessageError::Json(_)));
    }

    #[test]
    fn values_are_counted_before_they_cost_memory() {
        let message = |count: usize| {
            let list = vec!["0"; count].join(",");
            format!(
                r#"{{"type":"ToolDispatch","command_id":"c","tool":"t","params":{{"x":[{list}]}},
                    "freshness":{}}}"#,
                freshness()
            )
        };
        assert!(parse::<HostMessage>(message(16_000).as_bytes()).is_ok());
        assert!(matches!(refused(&message(17_000)), MessageError::TooManyValues));
    }

    #[test]
    fn punctuation_inside_strings_is_free() {
        let text = "\\\",[{\"".repeat(20_000);
        let body = json!({"type": "ToolDispatch", "command_id": "c", "tool": "t",
            "params": {"x": text}, "freshness": freshness()});
        assert!(parse::<HostMessage>(body.to_string().as_bytes()).is_ok());
    }

    #[test]
    fn an_answer_finds_its_request() {
        for (body, id) in [
            (json!({"type": "ToolDispatch", "command_id": "c", "deadline_ms": 1.5}), Some("c")),
            (json!({"type": "Nonsense", "query_id": "q"}), Some("q")),
            (json!({"reset_id": "r", "request_id": "first"}), Some("first")),
            (json!({"command_id": 7}), None),
            (json!({"command_id": "x".repeat(257)}), None),
            (json!(["c"]), None),
            (json!({}), None),
        ] {
            assert_eq!(request_id(body.to_string().as_bytes()).as_deref(), id, "{body}");
        }
        assert_eq!(request_id(b"{\"command_id\": \"c\""), None);
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse::<HostMessage>(&body);
            let _ = request_id(&body);
        }

        #[test]
        fn what_is_a_small_object_is_left_to_serde(text in "[\\\\\",{}\\[\\]a-z ]{0,40}") {
            let body = json!({"type": "ToolDispatch", "command_id": text, "tool": "t",
                "freshness": freshness()});
            let body = body.to_string();
            let expected: Value = serde_json::from_str(&body).unwrap();
            let found = parse::<HostMessage>(body.as_bytes()).unwrap();
            let HostMessage::ToolDispatch(found) = found else { panic!() };
            prop_assert_eq!(&expected["command_id"], &found.command_id);
            let id = request_id(body.as_bytes());
            prop_assert_eq!(id.as_ref(), Some(&found.command_id));
        }
    }
}
