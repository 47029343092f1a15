//! A journalled frame, made fit for the session it is sent in.

use serde_json::Value;

/// The frame with the id of this session. A result that was made for another session says that it is
/// resumed. `None` when the text is no frame.
pub(super) fn restamp_session(frame: &str, session_id: &str) -> Option<String> {
    let mut value: Value = serde_json::from_str(frame).ok()?;
    let fields = value.as_object_mut()?;
    if fields.get("session_id").and_then(Value::as_str) == Some(session_id) {
        return Some(frame.to_owned());
    }
    fields.insert("session_id".into(), session_id.into());
    if fields.contains_key("resumed") {
        fields.insert("resumed".into(), true.into());
    }
    Some(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_of_another_session_is_stamped_anew_and_says_so() {
        let frame = r#"{"type":"CommandResult","session_id":"a","resumed":false,"error":null}"#;
        assert_eq!(restamp_session(frame, "a").unwrap(), frame);
        let again: Value = serde_json::from_str(&restamp_session(frame, "b").unwrap()).unwrap();
        assert_eq!(again["session_id"], "b");
        assert_eq!(again["resumed"], true);
        assert!(again["error"].is_null());
    }

    #[test]
    fn an_error_event_knows_no_resuming() {
        let frame = r#"{"type":"ErrorEvent","session_id":""}"#;
        let again: Value = serde_json::from_str(&restamp_session(frame, "b").unwrap()).unwrap();
        assert_eq!(again["session_id"], "b");
        assert!(again.get("resumed").is_none());
    }

    #[test]
    fn what_is_no_frame_is_not_sent() {
        assert_eq!(restamp_session("null", "b"), None);
        assert_eq!(restamp_session("[1]", "b"), None);
        assert_eq!(restamp_session("", "b"), None);
    }
}
