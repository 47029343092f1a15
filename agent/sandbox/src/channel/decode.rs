//! From the bytes of a frame to what they mean for whom.

use guest::wire::GuestMessage;
use serde_json::Value;

/// Fields that say whom a frame is for, in the order in which they count.
const CORRELATORS: [&str; 4] = ["request_id", "command_id", "query_id", "reset_id"];

/// What a frame holds.
#[derive(Debug)]
pub enum Frame {
    /// A message of the protocol.
    Message(Box<GuestMessage>),
    /// A JSON object that is none, and whom it claims to be for.
    Odd {
        /// The id it carries, if any.
        id: Option<String>,
        /// Why it is no message.
        detail: String,
    },
    /// No JSON object.
    Garbage(String),
}

/// Understands the body of a frame.
pub fn decode(body: &[u8]) -> Frame {
    let detail = match serde_json::from_slice(body) {
        Ok(message) => return Frame::Message(Box::new(message)),
        Err(e) => e.to_string(),
    };
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => {
            let id = CORRELATORS.iter().find_map(|name| fields.get(*name)?.as_str());
            Frame::Odd { id: id.map(str::to_owned), detail }
        }
        _ => Frame::Garbage(detail),
    }
}
