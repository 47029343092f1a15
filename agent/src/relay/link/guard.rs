//! The last look at a frame before it goes out.
//!
//! Relays in the field end their whole process, with the sessions of all endpoints, on some frames
//! that are well-formed text. Every frame here is made from plain structs and passes; the guard is
//! for the day one does not.

use protocol::{CanonicalError, Json};

/// Why a frame must not be sent. Every one is a fault of this agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// The relay would close the session because of its length.
    #[error("a frame of {bytes} bytes is not sent, the limit is {bound}; cut its payload")]
    TooLong {
        /// Length of the frame in bytes.
        bytes: usize,
        /// The longest frame that is sent.
        bound: usize,
    },
    /// A relay could not bring it into canonical form: overflowing numbers, keys that are the same.
    #[error("a frame without a canonical form is not sent: {0}; report this as a fault")]
    NotCanonical(CanonicalError),
    /// It is not an object with a `type`.
    #[error("a frame that is no object with a type is not sent; report this as a fault")]
    NoObject,
    /// It opens a session.
    #[error("a second EndpointHello is not sent; report this as a fault")]
    SecondHello,
    /// It carries another session's id, or none.
    #[error("a frame that is not stamped with this session is not sent; stamp it anew")]
    OtherSession,
    /// It tells of a failure without saying which.
    #[error("a failed CommandResult without code and message is not sent; report this as a fault")]
    NoError,
}

/// Whether `text` can be sent in the session `session_id`, where frames have at most `bound` bytes.
pub fn check(text: &str, session_id: &str, bound: usize) -> Result<(), FrameFault> {
    if text.len() > bound {
        return Err(FrameFault::TooLong { bytes: text.len(), bound });
    }
    let frame = Json::parse(text).map_err(FrameFault::NotCanonical)?;
    let Json::Object(_) = frame else {
        return Err(FrameFault::NoObject);
    };
    let field = |name| frame.get(name).and_then(Json::as_str);
    match field("type") {
        None => return Err(FrameFault::NoObject),
        Some("EndpointHello") => return Err(FrameFault::SecondHello),
        Some("CommandResult") if field("lifecycle_state") != Some("completed") => {
            let error = frame.get("error");
            let says = |name| error.and_then(|error| error.get(name)).and_then(Json::as_str);
            if says("code").is_none() || says("message").is_none() {
                return Err(FrameFault::NoError);
            }
        }
        Some(_) => {}
    }
    if field("session_id") != Some(session_id) {
        return Err(FrameFault::OtherSession);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: usize = 1024;

    fn fault(text: &str) -> FrameFault {
        check(text, "s", BOUND).unwrap_err()
    }

    #[test]
    fn ordinary_frames_pass() {
        for text in [
            r#"{"type":"CommandAck","session_id":"s","command_id":"c"}"#,
            r#"{"type":"CommandResult","session_id":"s","lifecycle_state":"completed","error":null}"#,
            r#"{"type":"CommandResult","session_id":"s","lifecycle_state":"failed","error":{"code":"X","message":"m"}}"#,
        ] {
            assert_eq!(check(text, "s", BOUND), Ok(()), "{text}");
        }
    }

    #[test]
    fn each_frame_that_ends_a_relay_is_held_back() {
        assert_eq!(fault("null"), FrameFault::NoObject);
        assert_eq!(fault("[1]"), FrameFault::NoObject);
        assert_eq!(fault(r#"{"session_id":"s"}"#), FrameFault::NoObject);
        assert_eq!(fault(r#"{"type":"EndpointHello","session_id":"s"}"#), FrameFault::SecondHello);
        let number = r#"{"type":"X","session_id":"s","payload":{"n":1e400}}"#;
        assert!(matches!(fault(number), FrameFault::NotCanonical(_)));
        let keys = "{\"type\":\"X\",\"session_id\":\"s\",\"p\":{\"e\u{301}\":1,\"\u{e9}\":2}}";
        assert!(matches!(fault(keys), FrameFault::NotCanonical(_)));
        for error in ["", r#","error":null"#, r#","error":{}"#, r#","error":{"code":"X"}"#] {
            let text = format!(
                r#"{{"type":"CommandResult","session_id":"s","lifecycle_state":"failed"{error}}}"#
            );
            assert_eq!(fault(&text), FrameFault::NoError, "{text}");
        }
    }

    #[test]
    fn a_stale_stamp_and_a_frame_beyond_all_measure_are_held_back() {
        assert_eq!(fault(r#"{"type":"CommandAck","session_id":"t"}"#), FrameFault::OtherSession);
        assert_eq!(fault(r#"{"type":"CommandAck"}"#), FrameFault::OtherSession);
        let long = r#"{"type":"CommandAck","session_id":"s"}"#;
        assert_eq!(check(long, "s", long.len()), Ok(()));
        let (bytes, bound) = (long.len(), long.len() - 1);
        assert_eq!(check(long, "s", bound), Err(FrameFault::TooLong { bytes, bound }));
    }
}
