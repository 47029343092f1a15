//! The other end of a channel, played by the test.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use guest::evidence::Chain;
use guest::wire::{
    ENTROPY_BYTES, Freshness, GuestQuery, GuestResponse, QueryKind, ToolDispatch, entropy_sha256,
};
use serde_json::{Value, json};

use super::super::{Channel, ChannelError, CommandFailure, Output};

/// Long enough to never be reached by a test that works.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const LIMIT: usize = 64;
/// What every command of these tests brings along.
pub const WALL_TIME_NS: u64 = 1_767_323_045_678_901_234;
pub const ENTROPY: [u8; ENTROPY_BYTES] = [0xa5; ENTROPY_BYTES];

pub struct FakeGuest {
    pub stream: UnixStream,
}

/// A channel that gives a guest `stall_limit` inside a frame, and that guest.
pub fn pair_with(stall_limit: Duration) -> (Arc<Channel>, FakeGuest) {
    let (host, stream) = UnixStream::pair().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let writer = host.try_clone().unwrap();
    (Arc::new(Channel::new(host, writer, stall_limit)), FakeGuest { stream })
}

pub fn pair() -> (Arc<Channel>, FakeGuest) {
    pair_with(PATIENCE)
}

impl FakeGuest {
    pub fn receive(&mut self) -> Value {
        let mut header = [0; 4];
        self.stream.read_exact(&mut header).unwrap();
        let mut body = vec![0; u32::from_be_bytes(header) as usize];
        self.stream.read_exact(&mut body).unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    pub fn send(&mut self, message: &Value) {
        self.send_bytes(&frame(message.to_string().as_bytes()));
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Confirms the freshness of a command, then sends the evidence of `stdout` and the result that
    /// goes with it.
    pub fn finish(&mut self, id: &str, stdout: &str) {
        for message in script(id, stdout) {
            self.send(&message);
        }
    }
}

pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

/// The confirmation, the chunks of `stdout` (one, unless it is empty), the terminal one, and the
/// result.
pub fn script(id: &str, stdout: &str) -> Vec<Value> {
    let mut chain = Chain::new(id);
    let mut messages = vec![ack(id)];
    if !stdout.is_empty() {
        messages.push(next_chunk(id, &mut chain, &[b"\x01", stdout.as_bytes()].concat(), false));
    }
    messages.push(next_chunk(id, &mut chain, b"", true));
    messages.push(result(id, stdout, &chain.hash()));
    messages
}

/// The confirmation of a command's freshness.
pub fn ack(id: &str) -> Value {
    json!({
        "type": "FreshnessAck", "command_id": id, "guest_time_ns": WALL_TIME_NS + 1,
        "entropy_sha256": entropy_sha256(&ENTROPY),
    })
}

fn next_chunk(id: &str, chain: &mut Chain, data: &[u8], is_terminal: bool) -> Value {
    let seq = chain.append(data);
    chunk(id, seq, data, is_terminal)
}

pub fn chunk(id: &str, seq: u64, data: &[u8], is_terminal: bool) -> Value {
    use base64::Engine;
    json!({
        "type": "EvidenceChunk", "command_id": id, "seq": seq,
        "chunk_data": base64::engine::general_purpose::STANDARD.encode(data),
        "chunk_size": data.len(), "is_terminal": is_terminal,
    })
}

pub fn result(id: &str, stdout: &str, evidence_hash: &str) -> Value {
    json!({
        "type": "ToolResult", "command_id": id, "exit_code": 0,
        "stdout": stdout, "stderr": "", "evidence_hash": evidence_hash,
        "stdout_encoding": "utf-8", "stderr_encoding": "utf-8",
        "stdout_bytes": stdout.len(), "stderr_bytes": 0,
        "stdout_truncated": false, "stderr_truncated": false,
        "reason": null, "duration_us": 1,
    })
}

pub fn response(id: &str) -> Value {
    json!({
        "type": "GuestResponse", "query_id": id, "query_kind": "OpenFdCount",
        "result": {"open_fd_count": 7, "pid1_open_fd_count": 5}, "ts": "2026-01-02T03:04:05Z",
    })
}

pub fn dispatch(id: &str) -> ToolDispatch {
    serde_json::from_value(json!({
        "command_id": id, "tool": "echo", "params": {"message": "hello"}, "deadline_ms": 1000,
        "freshness": Freshness::new(WALL_TIME_NS, &ENTROPY),
    }))
    .unwrap()
}

pub fn query(id: &str) -> GuestQuery {
    serde_json::from_value(json!({
        "query_id": id, "query_kind": QueryKind::OpenFdCount, "ts": "2026-01-02T03:04:05Z",
    }))
    .unwrap()
}

/// Runs a command in a thread of its own.
pub fn spawn_command(
    channel: &Arc<Channel>,
    id: &str,
) -> JoinHandle<Result<Output, CommandFailure>> {
    let (channel, id) = (Arc::clone(channel), id.to_owned());
    thread::spawn(move || channel.dispatch(dispatch(&id), LIMIT, Instant::now() + PATIENCE))
}

/// Asks a query in a thread of its own.
pub fn spawn_query(
    channel: &Arc<Channel>,
    id: &str,
) -> JoinHandle<Result<GuestResponse, ChannelError>> {
    let (channel, id) = (Arc::clone(channel), id.to_owned());
    thread::spawn(move || channel.query(query(&id), Instant::now() + PATIENCE))
}

pub fn error_of(caller: JoinHandle<Result<Output, CommandFailure>>) -> ChannelError {
    caller.join().unwrap().unwrap_err().error
}
