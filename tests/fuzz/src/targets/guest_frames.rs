//! Frames of the control connection. First byte: how the stream is cut into pieces.

use guest::framing::{FrameDecoder, encode_frame};
use guest::wire::{GuestMessage, HostMessage, MAX_ID_BYTES, parse, request_id};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub fn run(input: &[u8]) {
    let Some((cut, stream)) = input.split_first() else { return };
    let whole = decode([stream]);
    let piece = usize::from(*cut % 16) + 1;
    assert_eq!(decode(stream.chunks(piece)), whole, "the same bytes in pieces of {piece}");
    for body in &whole.0 {
        there_and_back::<HostMessage>(body);
        there_and_back::<GuestMessage>(body);
        assert!(request_id(body).is_none_or(|id| id.len() <= MAX_ID_BYTES));
    }
}

/// All bodies, and whether the stream ended in an error.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, bool) {
    let mut decoder = FrameDecoder::new();
    let mut bodies = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(body)) => bodies.push(body.to_vec()),
                Ok(None) => break,
                Err(_) => return (bodies, true),
            }
        }
    }
    (bodies, false)
}

/// What is understood is understood again from what is written of it.
fn there_and_back<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(body: &[u8]) {
    let Ok(message) = parse::<T>(body) else { return };
    let frame = encode_frame(&message).unwrap();
    let (bodies, failed) = decode([frame.as_slice()]);
    assert!(!failed && bodies.len() == 1, "{message:?}");
    assert_eq!(parse::<T>(&bodies[0]).unwrap(), message);
}
