//! The answer to a frame that is nothing this agent knows.

use serde::Deserialize;
use serde_json::Value;

use protocol::message::{ErrorEvent, NO_COMMAND};
use protocol::shape::{is_uuid, start_of};
use protocol::{ErrorCode, Timestamp};

/// The answer, about the command that is given or about none.
pub fn event(
    command_id: Option<String>,
    why: &str,
    endpoint_id: &str,
    session_id: &str,
) -> ErrorEvent {
    ErrorEvent {
        command_id: command_id.unwrap_or_else(|| NO_COMMAND.to_owned()),
        endpoint_id: endpoint_id.to_owned(),
        session_id: session_id.to_owned(),
        code: ErrorCode::SchemaInvalid,
        message: start_of(why),
        ts: Timestamp::now(),
    }
}

/// The command that a frame names, if that is a UUID.
pub fn command_id(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        command_id: Value,
    }
    let Named { command_id: Value::String(id) } = serde_json::from_str(text).ok()? else {
        return None;
    };
    is_uuid(&id).then_some(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "3f2b8c1e-7d4a-4e9b-9c55-0123456789ab";

    fn named(text: &str) -> String {
        event(command_id(text), "why", "e", "s").command_id
    }

    #[test]
    fn the_frames_own_command_is_named_where_it_has_one() {
        assert_eq!(named(&format!(r#"{{"type":"X","command_id":"{ID}","more":[1]}}"#)), ID);
        for text in ["", "null", "[]", "{}", r#"{"command_id":7}"#, r#"{"command_id":"x"}"#] {
            assert_eq!(named(text), NO_COMMAND, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer_of_bounded_length(text in ".{0,200}", why in ".{0,2000}") {
            let event = event(command_id(&text), &why, "e", "s");
            prop_assert!(event.message.chars().count() <= 128);
        }
    }
}
