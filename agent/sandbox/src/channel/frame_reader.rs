//! Frames out of a byte stream, in whatever pieces they arrive and however long that takes.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use guest::framing::{FrameDecoder, FrameError, MAX_FRAME_BYTES};

use super::error::ChannelError;
use super::link::ReadLink;

/// Read at once at most.
const CHUNK_BYTES: usize = 64 << 10;
/// Shortest wait a stream is asked for: zero would mean "for ever".
const SHORTEST_WAIT: Duration = Duration::from_micros(1);

/// Reads frames. Keeps what it has of an unfinished frame between calls.
pub struct FrameReader {
    link: Box<dyn ReadLink>,
    decoder: FrameDecoder,
    chunk: Vec<u8>,
    last_byte: Instant,
    stall_limit: Duration,
}

impl FrameReader {
    /// `stall_limit`: how long the peer may pause inside a frame.
    pub fn new(link: impl ReadLink + 'static, stall_limit: Duration) -> Self {
        Self {
            link: Box::new(link),
            decoder: FrameDecoder::new(),
            chunk: vec![0; CHUNK_BYTES],
            last_byte: Instant::now(),
            stall_limit,
        }
    }

    /// What `understand` makes of the next frame's body; `None` when `until` passes first.
    ///
    /// Every error is fatal: the stream's position is lost.
    pub fn next<T>(
        &mut self,
        until: Instant,
        understand: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, ChannelError> {
        let mut received = false;
        loop {
            if let Some(body) = self.decoder.next_frame().map_err(|e| fatal(&e))? {
                return Ok(Some(understand(body)));
            }
            // A guest that never pauses and never finishes must not hold its reader.
            if received && Instant::now() >= until {
                return Ok(None);
            }
            received = self.receive(until)?;
            if !received {
                return Ok(None);
            }
        }
    }

    /// Ends the stream in both directions.
    pub fn close(&mut self) {
        self.link.close();
    }

    /// Takes what the stream has. False when nothing came before `until`.
    fn receive(&mut self, until: Instant) -> Result<bool, ChannelError> {
        let inside_frame = self.decoder.is_inside_frame();
        if !inside_frame {
            // Gives back what a large frame needed.
            self.decoder = FrameDecoder::new();
        }
        loop {
            let now = Instant::now();
            let mut wait = until.saturating_duration_since(now);
            if inside_frame {
                // There may have been no reader for a while: give what is queued a last chance.
                let stall = (self.last_byte + self.stall_limit).saturating_duration_since(now);
                wait = wait.min(stall);
            }
            self.link
                .limit_reads(wait.max(SHORTEST_WAIT))
                .map_err(|e| closed(format!("cannot wait for the guest: {e}")))?;
            match self.link.read(&mut self.chunk) {
                Ok(0) if inside_frame => return Err(ChannelError::CutShort),
                Ok(0) => return Err(closed("the guest closed it".into())),
                Ok(count) => {
                    self.decoder.push(self.chunk.get(..count).unwrap_or_default());
                    self.last_byte = Instant::now();
                    return Ok(true);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    let now = Instant::now();
                    if inside_frame && now >= self.last_byte + self.stall_limit {
                        return Err(ChannelError::Stalled { limit: self.stall_limit });
                    }
                    if now >= until {
                        return Ok(false);
                    }
                }
                Err(e) => return Err(closed(e.to_string())),
            }
        }
    }
}

fn fatal(error: &FrameError) -> ChannelError {
    match error {
        FrameError::TooLarge(announced) => {
            ChannelError::InboundTooLarge { announced: *announced, limit: MAX_FRAME_BYTES }
        }
        FrameError::Empty | FrameError::Json(_) => ChannelError::Malformed,
    }
}

fn closed(detail: String) -> ChannelError {
    ChannelError::Closed { detail }
}
