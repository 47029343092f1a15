//! One output stream of a tool: kept up to a limit, counted beyond it.

use std::fs::File;
use std::io::{ErrorKind, Read};

use guest::output;
use guest::wire::Encoding;

/// Leaves room for the tag in a chunk of 64 KiB.
const READ_BYTES: usize = (64 << 10) - 1;

/// The reading end of a pipe and what came out of it.
pub struct Stream {
    pipe: File,
    tag: u8,
    kept: Vec<u8>,
    limit: usize,
    total: u64,
    pub ended: bool,
}

/// What a read brought.
pub enum Progress {
    /// A chunk for the evidence: tag and bytes.
    Chunk(Vec<u8>),
    /// Bytes beyond the limit.
    Dropped,
    /// Nothing now.
    Empty,
    /// The end.
    End,
}

/// A stream as a result carries it.
pub struct Captured {
    pub text: String,
    pub encoding: Encoding,
    pub bytes: u64,
    pub truncated: bool,
}

impl Stream {
    pub fn new(pipe: File, tag: u8, limit: u64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { pipe, tag, kept: Vec::new(), limit, total: 0, ended: false }
    }

    pub fn pipe(&self) -> &File {
        &self.pipe
    }

    /// Reads once.
    pub fn read(&mut self) -> Progress {
        let mut buffer = vec![0; READ_BYTES];
        match self.pipe.read(&mut buffer) {
            Ok(0) => {
                self.ended = true;
                Progress::End
            }
            Ok(count) => {
                self.total = self.total.saturating_add(count as u64);
                let room = self.limit.saturating_sub(self.kept.len());
                let new = buffer.get(..count.min(room)).unwrap_or_default();
                if new.is_empty() {
                    return Progress::Dropped;
                }
                self.kept.extend_from_slice(new);
                let mut chunk = Vec::with_capacity(1 + new.len());
                chunk.push(self.tag);
                chunk.extend_from_slice(new);
                Progress::Chunk(chunk)
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => Progress::Dropped,
            Err(_) => Progress::Empty,
        }
    }

    pub fn finish(self) -> Captured {
        let truncated = self.total > self.kept.len() as u64;
        let (text, encoding) = output::encode(self.kept);
        Captured { text, encoding, bytes: self.total, truncated }
    }
}
