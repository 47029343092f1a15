//! One peer: frames in, frames out, nobody else held up.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use guest::framing::{FrameDecoder, encode_frame};
use guest::wire::GuestMessage;

/// How long a peer may stay silent in the middle of a frame.
const PARTIAL_FRAME_LIMIT: Duration = Duration::from_secs(30);
/// With this much unsent, the output of tools waits in their pipes.
const CONGESTED_BYTES: usize = 1 << 20;
const READ_BYTES: usize = 64 << 10;

/// A connection and its buffers.
pub struct Connection {
    stream: File,
    pub decoder: FrameDecoder,
    unsent: VecDeque<u8>,
    partial_since: Option<Instant>,
    /// No more input; closes when everything is sent.
    closing: bool,
}

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Open,
    Closed,
}

impl Connection {
    pub fn new(stream: File) -> Self {
        Self {
            stream,
            decoder: FrameDecoder::new(),
            unsent: VecDeque::new(),
            partial_since: None,
            closing: false,
        }
    }

    pub fn stream(&self) -> &File {
        &self.stream
    }

    /// Reads what is there, once, so that one busy peer does not starve the others.
    pub fn read(&mut self) -> Fate {
        let mut buffer = vec![0; READ_BYTES];
        match self.stream.read(&mut buffer) {
            Ok(0) => Fate::Closed,
            Ok(count) => {
                self.decoder.push(buffer.get(..count).unwrap_or_default());
                Fate::Open
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Fate::Open
            }
            Err(_) => Fate::Closed,
        }
    }

    /// Restarts or stops the clock of a partial frame, after the decoder was emptied.
    pub fn note_progress(&mut self) {
        self.partial_since = self.decoder.is_inside_frame().then(Instant::now);
    }

    /// When the peer must have gone on.
    pub fn deadline(&self) -> Option<Instant> {
        self.partial_since.and_then(|since| since.checked_add(PARTIAL_FRAME_LIMIT))
    }

    /// Queues a message.
    pub fn send(&mut self, message: &GuestMessage) {
        match encode_frame(message) {
            Ok(frame) => self.unsent.extend(frame),
            // Sizes are bounded where messages are made.
            Err(e) => eprintln!("guest-init: cannot send: {e}"),
        }
    }

    /// Takes no more input and closes once everything is sent.
    pub fn close_after_sending(&mut self) {
        self.closing = true;
        self.partial_since = None;
    }

    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Sends as much as the peer takes.
    pub fn flush(&mut self) -> Fate {
        while !self.unsent.is_empty() {
            let (front, _) = self.unsent.as_slices();
            match self.stream.write(front) {
                Ok(count) => {
                    self.unsent.drain(..count);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Fate::Open,
                Err(_) => return Fate::Closed,
            }
        }
        // A large result must not stay in golden memory as an empty buffer.
        self.unsent.shrink_to(READ_BYTES);
        if self.closing { Fate::Closed } else { Fate::Open }
    }

    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    pub fn is_congested(&self) -> bool {
        self.unsent.len() > CONGESTED_BYTES
    }
}
