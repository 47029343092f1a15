//! What goes into a sandbox and what comes out.

use std::time::Duration;

use guest::wire::{DEFAULT_DEADLINE_MS, ResultReason};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::Chunks;

/// One tool to run.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// Identifies the call; part of its evidence.
    pub command_id: String,
    /// Name in the registry.
    pub tool: String,
    /// Parameters as the tool's schema wants them.
    pub params: Map<String, Value>,
    /// Milliseconds the tool may take. The tool's own limit applies when that is shorter; a call
    /// with no time left fails without being started.
    pub deadline_ms: i64,
}

impl ToolCall {
    /// A call with an id of its own and the default deadline.
    pub fn new(tool: impl Into<String>, params: Map<String, Value>) -> Self {
        Self {
            command_id: uuid::Uuid::new_v4().to_string(),
            tool: tool.into(),
            params,
            deadline_ms: DEFAULT_DEADLINE_MS,
        }
    }
}

/// How a tool ended, and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolOutcome {
    /// The tool's own exit code; 127 for a tool that is unknown or not enabled, 254 for one that
    /// could not be started, 128 + N for one ended by signal N.
    pub exit_code: i32,
    /// Why there is no exit code of the tool's own.
    pub reason: Option<ResultReason>,
    /// The reason in words.
    pub message: Option<String>,
    /// Start of the tool's output, exact.
    pub stdout: Vec<u8>,
    /// Start of the tool's error output, exact.
    pub stderr: Vec<u8>,
    /// Bytes of output the tool produced.
    pub stdout_total: u64,
    /// Bytes of error output the tool produced.
    pub stderr_total: u64,
    /// `stdout` is not all of it.
    pub stdout_truncated: bool,
    /// `stderr` is not all of it.
    pub stderr_truncated: bool,
    /// Head of the evidence chain as the host computed it: `sha256:` and 64 hex digits.
    pub evidence_hash: String,
    /// The chunks of that chain.
    pub chunks: Chunks,
    /// Time in the guest, from the request to the end of the tool.
    pub in_guest: Duration,
    /// Time on the host, from the call to the checked result.
    pub round_trip: Duration,
}

impl ToolOutcome {
    /// A tool that ended by itself and wrote `stdout` and nothing else, with the evidence of that.
    pub fn of_stdout(command_id: &str, exit_code: i32, stdout: impl Into<Vec<u8>>) -> Self {
        let stdout = stdout.into();
        let chunks = Chunks::of_output(&stdout);
        Self {
            exit_code,
            reason: None,
            message: None,
            stdout_total: stdout.len() as u64,
            stdout,
            stderr: Vec::new(),
            stderr_total: 0,
            stdout_truncated: false,
            stderr_truncated: false,
            evidence_hash: chunks.hash(command_id),
            chunks,
            in_guest: Duration::ZERO,
            round_trip: Duration::ZERO,
        }
    }
}

/// Output of a tool that did not finish.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartialOutput {
    /// Start of the tool's output.
    pub stdout: Vec<u8>,
    /// Start of the tool's error output.
    pub stderr: Vec<u8>,
    /// Evidence of that output; none when no guest has seen the command.
    pub evidence_hash: Option<String>,
    /// The chunks of that evidence.
    pub chunks: Chunks,
}

/// What the guest says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryAnswer {
    /// Open file descriptors, sockets excluded.
    OpenFdCount {
        /// Number of open descriptors of all processes.
        open_fd_count: u64,
        /// Number of open descriptors of the guest program.
        pid1_open_fd_count: u64,
    },
    /// Memory of the guest, in bytes.
    MemUsage {
        /// In use.
        bytes_used: u64,
        /// Altogether.
        bytes_total: u64,
    },
    /// Processes, 100 at most.
    ProcessList(Vec<Process>),
}

/// A process of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Name of the process, as the guest's kernel has it.
    pub name: String,
    /// Process id in the guest.
    pub pid: u32,
}
