//! From the bytes of a frame to a message, and to the request it belongs to.

use guest::wire::{GuestMessage, parse, request_id};

use crate::guest_text::printable;

/// What a frame holds.
#[derive(Debug)]
pub enum Frame {
    /// A message of the protocol.
    Message(Box<GuestMessage>),
    /// No message of the protocol.
    Odd {
        /// The request it claims to be for, if any.
        id: Option<String>,
        /// Why it is no message; bounded, though the guest wrote parts of it.
        detail: String,
    },
}

/// Understands the body of a frame. Memory is bounded by a small multiple of the body's length,
/// whatever the guest wrote.
pub fn decode(body: &[u8]) -> Frame {
    match parse(body) {
        Ok(message) => Frame::Message(Box::new(message)),
        Err(e) => Frame::Odd { id: request_id(body), detail: printable(&e.to_string()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn odd(body: &str) -> (Option<String>, String) {
        match decode(body.as_bytes()) {
            Frame::Odd { id, detail } => (id, detail),
            Frame::Message(message) => panic!("{message:?}"),
        }
    }

    #[test]
    fn a_frame_of_many_values_is_refused_before_they_cost_memory() {
        let list = vec!["0"; 100_000].join(",");
        let response = format!(
            r#"{{"type":"GuestResponse","query_id":"q","query_kind":"MemUsage","ts":"","result":[{list}]}}"#
        );
        // This is why the check exists.
        assert!(serde_json::from_str::<GuestMessage>(&response).is_ok());
        assert!(odd(&response).1.contains("values"), "{response:.80}");
    }

    #[test]
    fn what_the_guest_wrote_is_cut_in_the_detail() {
        let long = "x".repeat(1 << 20);
        let (id, detail) = odd(&format!(r#"{{"type":"{long}","query_id":"q"}}"#));
        assert_eq!(id.as_deref(), Some("q"));
        assert!(detail.len() < 1000, "{}", detail.len());
    }

    #[test]
    fn an_id_has_a_longest_length() {
        let long = "x".repeat(257);
        for body in [
            format!(
                r#"{{"type":"ResetAck","reset_id":"{long}","reset_complete_at":"","golden_hash":"","verification_passed":false}}"#
            ),
            format!(
                r#"{{"type":"ErrorEvent","code":"FRAME_MALFORMED","message":"","request_id":"{long}"}}"#
            ),
        ] {
            let (id, detail) = odd(&body);
            assert_eq!(id, None);
            assert!(detail.contains("257 bytes"), "{detail}");
        }
    }
}
