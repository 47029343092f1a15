//! Frames as they arrived from endpoints.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

/// What a frame carries.
#[derive(Debug, Clone)]
pub enum FrameBody {
    /// A text frame.
    Text(Arc<str>),
    /// A binary frame.
    Binary(Arc<[u8]>),
    /// A WebSocket ping; the relay answers it unless it stopped reading.
    Ping,
    /// A WebSocket pong.
    Pong,
    /// A close frame with its code and reason.
    Close(Option<(u16, String)>),
}

/// One frame of an endpoint.
#[derive(Debug, Clone)]
pub struct ReceivedFrame {
    /// Counts all frames of all endpoints, from 0.
    pub number: u64,
    /// When it had been read whole.
    pub at: Instant,
    /// Counts connections, from 1.
    pub connection: u64,
    /// The endpoint of the connection, once its hello was read.
    pub endpoint_id: Option<Arc<str>>,
    /// The session of the connection, once it has one.
    pub session_id: Option<Arc<str>>,
    /// The frame's `type`, empty when it has none.
    pub kind: String,
    /// The frame's `command_id`, where it has one.
    pub command_id: Option<String>,
    /// The content.
    pub body: FrameBody,
}

impl ReceivedFrame {
    /// The text of a text frame, empty for any other.
    pub fn text(&self) -> &str {
        match &self.body {
            FrameBody::Text(text) => text,
            _ => "",
        }
    }

    /// The text frame as JSON, null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(self.text()).unwrap_or_default()
    }

    fn size(&self) -> usize {
        match &self.body {
            FrameBody::Text(text) => text.len(),
            FrameBody::Binary(bytes) => bytes.len(),
            FrameBody::Ping | FrameBody::Pong | FrameBody::Close(_) => 0,
        }
    }
}

/// The newest frames, bounded in number and in bytes.
#[derive(Debug)]
pub(crate) struct FrameLog {
    frames: VecDeque<ReceivedFrame>,
    bytes: usize,
    next: u64,
    most_frames: usize,
    most_bytes: usize,
}

impl FrameLog {
    pub(crate) fn new(most_frames: usize, most_bytes: usize) -> Self {
        Self { frames: VecDeque::new(), bytes: 0, next: 0, most_frames, most_bytes }
    }

    pub(crate) fn push(&mut self, mut frame: ReceivedFrame) {
        frame.number = self.next;
        self.next += 1;
        self.bytes += frame.size();
        self.frames.push_back(frame);
        while self.frames.len() > self.most_frames || self.bytes > self.most_bytes {
            let Some(oldest) = self.frames.pop_front() else { break };
            self.bytes -= oldest.size();
        }
    }

    /// The number the next frame will get.
    pub(crate) fn next_number(&self) -> u64 {
        self.next
    }

    /// The kept frames from `number` on.
    pub(crate) fn since(&self, number: u64) -> impl Iterator<Item = &ReceivedFrame> {
        self.frames.range(self.frames.partition_point(|frame| frame.number < number)..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &str) -> ReceivedFrame {
        ReceivedFrame {
            number: 0,
            at: Instant::now(),
            connection: 1,
            endpoint_id: None,
            session_id: None,
            kind: String::new(),
            command_id: None,
            body: FrameBody::Text(text.into()),
        }
    }

    #[test]
    fn keeps_the_newest_within_both_bounds() {
        let mut log = FrameLog::new(3, 10);
        for text in ["a", "b", "c", "d"] {
            log.push(frame(text));
        }
        let kept: Vec<_> = log.since(0).map(|frame| (frame.number, frame.text())).collect();
        assert_eq!(kept, [(1, "b"), (2, "c"), (3, "d")]);
        log.push(frame("0123456789"));
        let kept: Vec<_> = log.since(0).map(ReceivedFrame::text).collect();
        assert_eq!(kept, ["0123456789"]);
        assert_eq!(log.since(5).count(), 0);
    }
}
