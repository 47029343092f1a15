//! Cuts what a result carries to the room that a frame has, measured as JSON encodes it.
//!
//! The beginning of a stream stays, with the marks `NAME_truncated` and `NAME_total_bytes`. A stream
//! is text or base64, never both: `NAME` is always a string, and empty when `NAME_base64` is there.

mod frame;

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

pub(super) use frame::{cut_frame, message_of_too_long};

/// Bytes that a result's frame takes beside output and message: ids, hashes, the state of the machine,
/// heads of the chains, keys and marks.
pub(super) const OVERHEAD: usize = 3 << 10;

/// The streams of a payload.
const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// One stream of a tool's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OutputStream {
    content: Content,
    /// Bytes that the tool wrote.
    total: u64,
    /// Whether there is less of it than the tool wrote.
    is_cut: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Text(String),
    Bytes(Vec<u8>),
}

impl OutputStream {
    /// The first `most` bytes of an output of which `total` bytes were written.
    pub fn new(output: &[u8], is_cut: bool, total: u64, most: usize) -> Self {
        let kept = &output[..output.len().min(most)];
        let is_cut = is_cut || kept.len() < output.len();
        let content = match std::str::from_utf8(kept) {
            Ok(text) => Content::Text(text.to_owned()),
            // A cut may have gone through a character.
            Err(error) if is_cut && error.error_len().is_none() => {
                Content::Text(String::from_utf8_lossy(&kept[..error.valid_up_to()]).into_owned())
            }
            Err(_) => Content::Bytes(kept.to_vec()),
        };
        Self { content, total, is_cut }
    }

    /// Takes a stream out of a payload; an empty one where there is none.
    fn take(payload: &mut Map<String, Value>, name: &str) -> Self {
        let mut take = |key: String| payload.remove(&key);
        let text = match take(name.to_owned()) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let bytes = take(format!("{name}_base64"))
            .and_then(|base64| STANDARD.decode(base64.as_str()?).ok())
            .map(Content::Bytes);
        let content = bytes.unwrap_or(Content::Text(text));
        let is_cut = take(format!("{name}_truncated")).is_some();
        let total = take(format!("{name}_total_bytes")).and_then(|total| total.as_u64());
        let total = total.unwrap_or(match &content {
            Content::Text(text) => text.len() as u64,
            Content::Bytes(bytes) => bytes.len() as u64,
        });
        Self { content, total, is_cut }
    }

    fn put(self, payload: &mut Map<String, Value>, name: &str) {
        match self.content {
            Content::Text(text) => payload.insert(name.to_owned(), text.into()),
            Content::Bytes(bytes) => {
                payload.insert(format!("{name}_base64"), STANDARD.encode(bytes).into());
                payload.insert(name.to_owned(), "".into())
            }
        };
        if self.is_cut {
            payload.insert(format!("{name}_truncated"), true.into());
            payload.insert(format!("{name}_total_bytes"), json!(self.total));
        }
    }

    /// Bytes of it as JSON, without quotation marks.
    fn encoded(&self) -> usize {
        match &self.content {
            Content::Text(text) => encoded_len(text),
            Content::Bytes(bytes) => bytes.len().div_ceil(3).saturating_mul(4),
        }
    }

    fn cut_to(&mut self, room: usize) {
        if self.encoded() <= room {
            return;
        }
        self.is_cut = true;
        match &mut self.content {
            Content::Text(text) => text.truncate(fitting(text.char_indices(), text.len(), room)),
            Content::Bytes(bytes) => bytes.truncate(room / 4 * 3),
        }
    }
}

/// Puts both streams into a payload; as JSON they take at most `room` bytes together. What one of
/// them leaves of its half is the other's.
pub(super) fn put_streams(
    payload: &mut Map<String, Value>,
    streams: [OutputStream; 2],
    room: usize,
) {
    let [mut stdout, mut stderr] = streams;
    let half = room / 2;
    let (first, second) = (stdout.encoded(), stderr.encoded());
    stdout.cut_to(room.saturating_sub(second.min(half)));
    stderr.cut_to(room.saturating_sub(first.min(room - half)));
    for (name, stream) in STREAMS.into_iter().zip([stdout, stderr]) {
        stream.put(payload, name);
    }
}

/// The text, or its beginning and its end with the number of bytes that are missing between them. As
/// JSON it takes at most `room` bytes, but for a `room` that holds not even that number.
pub(super) fn cut_middle(text: String, room: usize) -> String {
    /// As long as what says how much is missing can be.
    const MARK: usize = 48;
    if encoded_len(&text) <= room {
        return text;
    }
    let half = room.saturating_sub(MARK) / 2;
    let head = fitting(text.char_indices(), text.len(), half);
    let back = text.char_indices().rev().map(|(at, c)| (text.len() - at - c.len_utf8(), c));
    let tail = text.len() - fitting(back, text.len(), half);
    let mut cut = text[..head].to_owned();
    // Writing to a string does not fail.
    let _ = write!(cut, "\n... {} bytes left out ...\n", tail.saturating_sub(head));
    cut.push_str(&text[tail.max(head)..]);
    cut
}

/// How many bytes of a text fit into `room` as JSON; all of its `length` when all do.
fn fitting(chars: impl Iterator<Item = (usize, char)>, length: usize, room: usize) -> usize {
    let mut used = 0_usize;
    for (at, c) in chars {
        used = used.saturating_add(encoded_len_of(c));
        if used > room {
            return at;
        }
    }
    length
}

/// Bytes of a text as JSON, without quotation marks.
fn encoded_len(text: &str) -> usize {
    text.chars().map(encoded_len_of).sum()
}

fn encoded_len_of(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        _ => c.len_utf8(),
    }
}

#[cfg(test)]
mod tests;
