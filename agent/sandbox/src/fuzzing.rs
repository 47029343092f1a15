//! A way in for fuzzing: the control connection's host side, with a guest that has said everything
//! already. In no agent that is built for use.

use std::io::{self, Cursor, Read, Write};
use std::time::{Duration, Instant};

use guest::wire::{ENTROPY_BYTES, Freshness, GuestQuery, QueryKind, ToolDispatch};
use serde_json::Map;

use super::channel::{Channel, ReadLink, WriteLink};
use crate::Chunks;

/// The command that is dispatched.
pub const COMMAND_ID: &str = "c";
/// Wall time of the command, in nanoseconds since the Unix epoch.
pub const WALL_TIME_NS: u64 = 1_767_323_045_678_000_000;
/// Random bytes of the command.
pub const ENTROPY: [u8; ENTROPY_BYTES] = [7; ENTROPY_BYTES];
/// Bytes kept of each output stream.
const OUTPUT_BYTES: usize = 1024;
/// The guest never makes the host wait: it has spoken, and hangs up.
const LONG_ENOUGH: Duration = Duration::from_secs(60);

/// What a command gave whose evidence was found good.
#[derive(Debug)]
pub struct Accepted {
    /// Start of the tool's output.
    pub stdout: Vec<u8>,
    /// Start of the tool's error output.
    pub stderr: Vec<u8>,
    /// The evidence of both.
    pub chunks: Chunks,
    /// The hash the guest named.
    pub evidence_hash: String,
}

/// Dispatches a command to a guest that says `said` and hangs up, then asks it something.
pub fn converse(said: Vec<u8>) -> Option<Accepted> {
    let channel = Channel::new(Said(Cursor::new(said)), Discarded, LONG_ENOUGH);
    let until = Instant::now() + LONG_ENOUGH;
    let dispatch = ToolDispatch {
        command_id: COMMAND_ID.to_owned(),
        tool: "echo".to_owned(),
        params: Map::new(),
        deadline_ms: 1000,
        freshness: Freshness::new(WALL_TIME_NS, &ENTROPY),
    };
    let accepted = channel.dispatch(dispatch, OUTPUT_BYTES, until).ok();
    let query = GuestQuery {
        query_id: "q".to_owned(),
        query_kind: QueryKind::OpenFdCount,
        ts: "2026-01-02T03:04:05Z".to_owned(),
    };
    let _ = channel.query(query, until);
    let _ = channel.failure();
    accepted.map(|output| Accepted {
        stdout: output.stdout,
        stderr: output.stderr,
        chunks: output.chunks,
        evidence_hash: output.result.evidence_hash,
    })
}

struct Said(Cursor<Vec<u8>>);

impl Read for Said {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl ReadLink for Said {
    fn limit_reads(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }

    fn close(&mut self) {
        self.0.set_position(u64::MAX);
    }
}

struct Discarded;

impl Write for Discarded {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteLink for Discarded {
    fn limit_writes(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }

    fn close(&mut self) {}
}
