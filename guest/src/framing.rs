//! Frames on the control connection: a big-endian 32-bit length, then that many bytes of JSON.

use serde::Serialize;
use thiserror::Error;

/// Largest body of a frame, in bytes.
pub const MAX_FRAME_BYTES: usize = 16 << 20;
/// Length of a frame's header, in bytes.
pub const HEADER_BYTES: usize = 4;
/// Memory a decoder keeps between frames, in bytes.
const KEPT_CAPACITY: usize = 64 << 10;

/// Why bytes are not a frame, or a message cannot become one.
#[derive(Debug, Error)]
pub enum FrameError {
    /// A header of length zero.
    #[error("a frame of zero bytes")]
    Empty,
    /// A body over the limit.
    #[error("a frame of {0} bytes; the limit is {MAX_FRAME_BYTES}")]
    TooLarge(usize),
    /// The message has no JSON form.
    #[error("the message cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Header and body of `message` in one piece, so that no other frame can come between them.
pub fn encode_frame(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - HEADER_BYTES;
    if length > MAX_FRAME_BYTES {
        return Err(FrameError::TooLarge(length));
    }
    for (slot, byte) in frame.iter_mut().zip((length as u32).to_be_bytes()) {
        *slot = byte;
    }
    Ok(frame)
}

/// Takes frames out of a stream of bytes. Memory follows the bytes that arrived, never the length
/// a header announces.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    bytes: Vec<u8>,
    /// Where the next frame starts in `bytes`.
    start: usize,
}

impl FrameDecoder {
    /// A decoder at the start of a frame.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends what was read.
    pub fn push(&mut self, data: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
            // One large frame must not cost its size for as long as the connection lives.
            self.bytes.shrink_to(KEPT_CAPACITY.max(self.bytes.len() + data.len()));
        }
        self.bytes.extend_from_slice(data);
    }

    /// The body of the next complete frame. After an error the stream has no frames any more.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let pending = self.bytes.get(self.start..).unwrap_or_default();
        let Some(header) = pending.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*header) as usize;
        if length == 0 {
            return Err(FrameError::Empty);
        }
        if length > MAX_FRAME_BYTES {
            return Err(FrameError::TooLarge(length));
        }
        let body = self.start + HEADER_BYTES;
        let end = body + length;
        if self.bytes.len() < end {
            return Ok(None);
        }
        self.start = end;
        Ok(self.bytes.get(body..end))
    }

    /// True in the middle of a frame, header included.
    pub fn is_inside_frame(&self) -> bool {
        self.bytes.len() > self.start
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_header_counts_bytes_big_endian() {
        let frame = encode_frame(&json!({"k": "é"})).unwrap();
        assert_eq!(frame, [&[0, 0, 0, 10][..], "{\"k\":\"é\"}".as_bytes()].concat());
    }

    #[test]
    fn the_limit_is_inclusive_both_ways() {
        let fits = "x".repeat(MAX_FRAME_BYTES - 2);
        let frame = encode_frame(&fits).unwrap();
        let mut decoder = FrameDecoder::new();
        decoder.push(&frame);
        assert_eq!(decoder.next_frame().unwrap().map(<[u8]>::len), Some(MAX_FRAME_BYTES));
        let error = encode_frame(&format!("{fits}x"));
        assert!(matches!(error, Err(FrameError::TooLarge(n)) if n == MAX_FRAME_BYTES + 1));
        let mut decoder = FrameDecoder::new();
        decoder.push(&(MAX_FRAME_BYTES as u32 + 1).to_be_bytes());
        assert!(matches!(decoder.next_frame(), Err(FrameError::TooLarge(_))));
    }

    #[test]
    fn a_frame_of_nothing_is_an_error() {
        let mut decoder = FrameDecoder::new();
        decoder.push(&[0; 4]);
        assert!(matches!(decoder.next_frame(), Err(FrameError::Empty)));
    }

    #[test]
    fn an_announced_length_costs_nothing() {
        let mut decoder = FrameDecoder::new();
        decoder.push(&(MAX_FRAME_BYTES as u32).to_be_bytes());
        assert!(decoder.next_frame().unwrap().is_none());
        assert!(decoder.is_inside_frame());
        assert!(decoder.bytes.capacity() < 1024);
    }

    #[test]
    fn a_large_frame_is_not_paid_for_twice() {
        let mut decoder = FrameDecoder::new();
        decoder.push(&encode_frame(&"x".repeat(1 << 20)).unwrap());
        assert!(decoder.next_frame().unwrap().is_some());
        decoder.push(&[0]);
        assert!(decoder.bytes.capacity() <= KEPT_CAPACITY);
    }

    #[test]
    fn a_known_dispatch_byte_for_byte() {
        let dispatch = json!({"type": "ToolDispatch",
            "command_id": "3f2b8c1e-7d4a-4e9b-9c55-0123456789ab", "tool": "echo",
            "params": {"message": "hello"}, "deadline_ms": 30000,
            "freshness": {"wall_time_ns": 1_767_323_045_678_901_234_u64,
                "entropy": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}});
        let message: crate::wire::HostMessage = serde_json::from_value(dispatch).unwrap();
        let body = concat!(
            r#"{"type":"ToolDispatch","command_id":"3f2b8c1e-7d4a-4e9b-9c55-0123456789ab","#,
            r#""tool":"echo","params":{"message":"hello"},"deadline_ms":30000,"#,
            r#""freshness":{"wall_time_ns":1767323045678901234,"#,
            r#""entropy":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}}"#,
        );
        let expected = [&[0, 0, 0, 0xf4], body.as_bytes()].concat();
        assert_eq!(encode_frame(&message).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_frames_are_the_same(
            bodies in proptest::collection::vec(".{1,40}", 1..8),
            cuts in proptest::collection::vec(1..17_usize, 1..50),
        ) {
            let stream: Vec<u8> =
                bodies.iter().flat_map(|body| encode_frame(body).unwrap()).collect();
            let mut decoder = FrameDecoder::new();
            let mut found = Vec::new();
            let (mut rest, mut cuts) = (stream.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                decoder.push(now);
                rest = later;
                while let Some(body) = decoder.next_frame().unwrap() {
                    found.push(serde_json::from_slice::<String>(body).unwrap());
                }
            }
            prop_assert_eq!(found, bodies);
            prop_assert!(!decoder.is_inside_frame());
        }

        #[test]
        fn no_input_panics(pieces in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..40), 0..20,
        )) {
            let mut decoder = FrameDecoder::new();
            for piece in pieces {
                decoder.push(&piece);
                while let Ok(Some(_)) = decoder.next_frame() {}
            }
        }
    }
}
