//! A running tool, from its cgroup to its result.

mod cgroup;
mod sandbox;
mod seccomp;
mod spawn;

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use guest::evidence::Chain;
use guest::output::{STDERR_TAG, STDOUT_TAG};
use guest::registry::ToolSpec;
use guest::wire::{EvidenceChunk, GuestMessage, ResultReason, ToolResult};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use super::output::{Progress, Stream};
use super::{console, reason};
pub use cgroup::Cgroup;
pub use seccomp::Filters;

/// Exit code of a tool that could not be started or had bad parameters.
pub const NOT_STARTED: i32 = 254;
/// Exit code of a tool that is not in the registry or not enabled.
pub const UNKNOWN: i32 = 127;
/// Exit code at the deadline: that of SIGKILL.
pub const DEADLINE: i32 = 137;
const SIGNAL_BASE: i32 = 128;

/// A tool that has been started.
pub struct Tool {
    pub connection: u64,
    pub command_id: String,
    pub pid: Pid,
    pub stdout: Stream,
    pub stderr: Stream,
    pub start_error: Option<File>,
    failure: Option<String>,
    cgroup: Cgroup,
    chain: Chain,
    started: Instant,
    deadline: Instant,
    timed_out: bool,
}

/// Which of a tool's streams.
#[derive(Debug, Clone, Copy)]
pub enum Which {
    Stdout,
    Stderr,
}

/// What one read of a stream brought.
pub enum Piece {
    /// Output within the limit.
    Evidence(GuestMessage),
    /// Output beyond the limit.
    Dropped,
    /// Nothing more for now.
    Nothing,
}

impl Tool {
    /// Starts `argv` under the limits of `spec`.
    pub fn start(
        connection: u64,
        command_id: &str,
        spec: &ToolSpec,
        argv: &[String],
        deadline: Duration,
        filters: &Filters,
    ) -> Result<Self, String> {
        let started = Instant::now();
        let cgroup = Cgroup::create(&spec.limits)?;
        let child = spawn::spawn(argv, &spec.limits, &cgroup, filters).inspect_err(|_| {
            cgroup.remove();
        })?;
        Ok(Self {
            connection,
            command_id: command_id.to_owned(),
            pid: child.pid,
            stdout: Stream::new(child.stdout, STDOUT_TAG, spec.limits.output_bytes),
            stderr: Stream::new(child.stderr, STDERR_TAG, spec.limits.output_bytes),
            start_error: Some(child.start_error),
            failure: None,
            cgroup,
            chain: Chain::new(command_id),
            started,
            deadline: started.checked_add(deadline).unwrap_or(started),
            timed_out: false,
        })
    }

    /// When the tool must be gone; `None` once it is being killed.
    pub fn deadline(&self) -> Option<Instant> {
        (!self.timed_out).then_some(self.deadline)
    }

    /// Kills the whole tree at the deadline. Its end is noticed like any other.
    pub fn time_out(&mut self) {
        self.timed_out = true;
        self.kill();
    }

    /// Kills the whole tree. Not to be called once the tool's own process has been waited for:
    /// its id may be another's then.
    pub fn kill(&self) {
        self.cgroup.kill();
        // A child that has not moved itself into the cgroup yet is only found by its id.
        let _ = kill(self.pid, Signal::SIGKILL);
    }

    /// Kills the whole tree and forgets it. The cgroup may need a moment to empty.
    pub fn abandon(self) -> Cgroup {
        self.kill();
        self.cgroup
    }

    /// Bytes of output held in memory.
    pub fn kept(&self) -> usize {
        self.stdout.kept() + self.stderr.kept()
    }

    /// Reads one stream once and keeps at most `room` bytes of it.
    pub fn read(&mut self, which: Which, room: usize) -> Piece {
        let stream = match which {
            Which::Stdout => &mut self.stdout,
            Which::Stderr => &mut self.stderr,
        };
        match stream.read(room) {
            Progress::Chunk(data) => Piece::Evidence(self.evidence(&data, false)),
            Progress::Dropped => Piece::Dropped,
            Progress::Empty | Progress::End => Piece::Nothing,
        }
    }

    /// Takes what the child said when it could not become the tool.
    pub fn read_start_error(&mut self) {
        if let Some(mut pipe) = self.start_error.take() {
            let mut text = Vec::new();
            // A child that has spoken but not ended yet makes this fail, after all of the text.
            let _ = pipe.read_to_end(&mut text);
            if !text.is_empty() {
                self.failure = Some(String::from_utf8_lossy(&text).into_owned());
            }
        }
    }

    fn evidence(&mut self, data: &[u8], is_terminal: bool) -> GuestMessage {
        GuestMessage::EvidenceChunk(EvidenceChunk {
            command_id: self.command_id.clone(),
            seq: self.chain.append(data),
            chunk_data: STANDARD.encode(data),
            chunk_size: data.len() as u64,
            is_terminal,
        })
    }

    /// The tool has ended: whatever it left behind goes too, and what is still in the pipes is
    /// its output, of which at most `room` more bytes are kept. Returns the last messages and the
    /// cgroup, which may need a moment to empty.
    pub fn finish(mut self, status: WaitStatus, room: usize) -> (Vec<GuestMessage>, Cgroup) {
        let most = self.kept().saturating_add(room);
        self.cgroup.kill();
        self.read_start_error();
        let mut messages = Vec::new();
        for which in [Which::Stdout, Which::Stderr] {
            loop {
                match self.read(which, most.saturating_sub(self.kept())) {
                    Piece::Evidence(message) => messages.push(message),
                    Piece::Dropped => {}
                    Piece::Nothing => break,
                }
            }
        }
        messages.push(self.evidence(&[], true));
        let (exit_code, reason) = self.verdict(status);
        let (stdout, stderr) = (self.stdout.finish(), self.stderr.finish());
        messages.push(GuestMessage::ToolResult(ToolResult {
            command_id: self.command_id,
            exit_code,
            stdout: stdout.text,
            stderr: stderr.text,
            evidence_hash: self.chain.hash(),
            stdout_encoding: stdout.encoding,
            stderr_encoding: stderr.encoding,
            stdout_bytes: stdout.bytes,
            stderr_bytes: stderr.bytes,
            stdout_truncated: stdout.truncated,
            stderr_truncated: stderr.truncated,
            reason,
            message: self.failure.map(reason::shorten),
            duration_us: micros(self.started.elapsed()),
        }));
        (messages, self.cgroup)
    }

    fn verdict(&self, status: WaitStatus) -> (i32, Option<ResultReason>) {
        if self.failure.is_some() {
            return (NOT_STARTED, Some(ResultReason::StartFailed));
        }
        if self.timed_out {
            return (DEADLINE, Some(ResultReason::DeadlineExceeded));
        }
        match status {
            WaitStatus::Exited(_, code) => (code, None),
            WaitStatus::Signaled(_, signal, _) => {
                let reason = if self.cgroup.ran_out_of_memory() {
                    ResultReason::OutOfMemory
                } else {
                    ResultReason::Signal
                };
                (SIGNAL_BASE + signal as i32, Some(reason))
            }
            other => (NOT_STARTED, Some(unexpected(other))),
        }
    }
}

fn unexpected(status: WaitStatus) -> ResultReason {
    console::print(&format!("a tool ended as {status:?}"));
    ResultReason::StartFailed
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The messages for a tool that was never started.
pub fn not_started(
    command_id: &str,
    exit_code: i32,
    reason: ResultReason,
    message: String,
) -> [GuestMessage; 2] {
    let mut chain = Chain::new(command_id);
    let seq = chain.append(&[]);
    let (stderr, stderr_encoding) = guest::output::encode(Vec::new());
    [
        GuestMessage::EvidenceChunk(EvidenceChunk {
            command_id: command_id.to_owned(),
            seq,
            chunk_data: String::new(),
            chunk_size: 0,
            is_terminal: true,
        }),
        GuestMessage::ToolResult(ToolResult {
            command_id: command_id.to_owned(),
            exit_code,
            stdout: String::new(),
            stderr,
            evidence_hash: chain.hash(),
            stdout_encoding: stderr_encoding,
            stderr_encoding,
            stdout_bytes: 0,
            stderr_bytes: 0,
            stdout_truncated: false,
            stderr_truncated: false,
            reason: Some(reason),
            message: Some(reason::shorten(message)),
            duration_us: 0,
        }),
    ]
}

#[cfg(test)]
mod tests;
