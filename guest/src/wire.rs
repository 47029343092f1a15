//! Messages between the agent and the guest program. Every schema is closed: an unknown
//! field, a key in other letters or a value of another type is an error.

mod freshness;
mod parse;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use freshness::{ENTROPY_BYTES, Freshness, FreshnessAck, entropy_sha256};
pub use parse::{MAX_ID_BYTES, MAX_VALUES, MessageError, parse, request_id};

/// Version of these messages, announced in [`GuestReady`].
pub const PROTOCOL_VERSION: u32 = 2;
/// vsock port of the guest program unless `BSM_VSOCK_PORT` says otherwise.
pub const DEFAULT_PORT: u32 = 52000;
/// Deadline of a dispatch that names none, in milliseconds.
pub const DEFAULT_DEADLINE_MS: i64 = 30_000;
/// Most entries of a process list.
pub const MAX_PROCESSES: usize = 100;
/// How the guest's kernel names its workers. The guest leaves out of the list what has such a name
/// and the kernel for a parent; the host takes a process of that name for none of them.
pub const KERNEL_WORKER: &str = "kworker/";

/// What the agent sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum HostMessage {
    /// Run a tool.
    ToolDispatch(ToolDispatch),
    /// Ask about the guest.
    GuestQuery(GuestQuery),
    /// A reset is about to happen: stop everything.
    ResetSignal(ResetSignal),
}

/// What the guest sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum GuestMessage {
    /// The guest program listens. Sent once, on a connection of its own.
    GuestReady(GuestReady),
    /// Time and randomness are new, and the tool starts next.
    FreshnessAck(FreshnessAck),
    /// Output of a running tool.
    EvidenceChunk(EvidenceChunk),
    /// A tool has ended.
    ToolResult(ToolResult),
    /// The answer to a query.
    GuestResponse(GuestResponse),
    /// Everything has stopped.
    ResetAck(ResetAck),
    /// A request could not be understood or served.
    ErrorEvent(ErrorEvent),
}

/// Run a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolDispatch {
    /// Identifies the command; used once. At most [`MAX_ID_BYTES`] bytes.
    #[serde(deserialize_with = "parse::id")]
    pub command_id: String,
    /// Name in the registry.
    pub tool: String,
    /// Parameters, checked against the tool's schema.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub params: Map<String, Value>,
    /// Milliseconds until the tool is killed; none left means it is not started.
    #[serde(default = "default_deadline")]
    pub deadline_ms: i64,
    /// Time and randomness for the guest; without them no tool starts.
    pub freshness: Freshness,
}

/// Ask about the guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestQuery {
    /// Identifies the query. At most [`MAX_ID_BYTES`] bytes.
    #[serde(deserialize_with = "parse::id")]
    pub query_id: String,
    /// What to ask.
    #[serde(deserialize_with = "parse::name")]
    pub query_kind: QueryKind,
    /// When it was asked, RFC 3339.
    pub ts: String,
}

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum QueryKind {
    /// Open descriptors of all processes, sockets left out, and those of PID 1.
    OpenFdCount,
    /// Memory in use and altogether, in bytes.
    MemUsage,
    /// Names and ids of at most 100 processes; without the kernel's workers, which it starts and
    /// ends as it likes.
    ProcessList,
}

/// A reset is about to happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResetSignal {
    /// Identifies the reset. At most [`MAX_ID_BYTES`] bytes.
    #[serde(deserialize_with = "parse::id")]
    pub reset_id: String,
    /// Why.
    #[serde(deserialize_with = "parse::name")]
    pub reason: ResetReason,
}

/// Why a machine is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetReason {
    /// After a command.
    PostDispatch,
    /// Something looked wrong.
    OnSuspicion,
    /// Nothing to do.
    OnIdle,
    /// A reply for another command.
    OnCommandIdMismatch,
}

/// The guest program listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestReady {
    /// [`PROTOCOL_VERSION`].
    pub protocol_version: u32,
    /// Port it listens on.
    pub port: u32,
    /// Microseconds since the guest kernel started.
    pub boot_us: u64,
}

/// Output of a running tool. The data of a chunk is one tag byte that names the stream
/// ([`crate::output::STDOUT_TAG`], [`crate::output::STDERR_TAG`]) and what the tool wrote; the
/// terminal chunk is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceChunk {
    /// The command.
    #[serde(deserialize_with = "parse::id")]
    pub command_id: String,
    /// Position in the chain, from 1.
    pub seq: u64,
    /// The data in standard base64.
    pub chunk_data: String,
    /// Length of the data in bytes.
    pub chunk_size: u64,
    /// The last one.
    pub is_terminal: bool,
}

/// A tool has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolResult {
    /// The command.
    #[serde(deserialize_with = "parse::id")]
    pub command_id: String,
    /// The tool's own, or 127 (unknown), 254 (not started), 137 (deadline), 128 + signal.
    pub exit_code: i32,
    /// What it wrote, as `stdout_encoding` says.
    pub stdout: String,
    /// What it wrote as errors, as `stderr_encoding` says.
    pub stderr: String,
    /// Hash of the terminal chunk.
    pub evidence_hash: String,
    /// Form of `stdout`.
    #[serde(deserialize_with = "parse::name")]
    pub stdout_encoding: Encoding,
    /// Form of `stderr`.
    #[serde(deserialize_with = "parse::name")]
    pub stderr_encoding: Encoding,
    /// Bytes the tool wrote, kept or not.
    pub stdout_bytes: u64,
    /// Bytes the tool wrote as errors, kept or not.
    pub stderr_bytes: u64,
    /// `stdout` is only the beginning.
    pub stdout_truncated: bool,
    /// `stderr` is only the beginning.
    pub stderr_truncated: bool,
    /// Why the exit code is not the tool's own.
    pub reason: Option<ResultReason>,
    /// The reason in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Microseconds from dispatch to end.
    pub duration_us: u64,
}

/// How bytes are written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// As they are.
    #[serde(rename = "utf-8")]
    Utf8,
    /// Standard base64.
    #[serde(rename = "base64")]
    Base64,
}

/// Why a tool has no exit code of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultReason {
    /// Killed at its deadline, or no time was left.
    DeadlineExceeded,
    /// Ended by a signal.
    Signal,
    /// Killed because its memory was used up.
    OutOfMemory,
    /// Not in the registry, or not enabled.
    UnknownTool,
    /// The parameters do not fit the schema.
    InvalidParams,
    /// The guest could not start it.
    StartFailed,
}

/// The answer to a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestResponse {
    /// The query.
    #[serde(deserialize_with = "parse::id")]
    pub query_id: String,
    /// What was asked.
    #[serde(deserialize_with = "parse::name")]
    pub query_kind: QueryKind,
    /// The answer; its fields depend on the kind.
    pub result: Value,
    /// When it was answered, RFC 3339.
    pub ts: String,
}

/// Everything has stopped. The guest claims nothing about the reset itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResetAck {
    /// The reset.
    #[serde(deserialize_with = "parse::id")]
    pub reset_id: String,
    /// When the last tool was gone, RFC 3339.
    pub reset_complete_at: String,
    /// Always empty: a guest cannot know it.
    pub golden_hash: String,
    /// Always false: a guest cannot know it.
    pub verification_passed: bool,
}

/// A request could not be understood or served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorEvent {
    /// What is wrong, for programs.
    #[serde(deserialize_with = "parse::name")]
    pub code: ErrorCode,
    /// What is wrong, for people.
    pub message: String,
    /// `command_id`, `query_id` or `reset_id` of the request, when it could be read.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "parse::optional_id"
    )]
    pub request_id: Option<String>,
}

/// What can be wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// Not a message. The connection is closed.
    FrameMalformed,
    /// Over 16 MiB. The connection is closed.
    FrameTooLarge,
    /// As many tools run as the guest allows.
    ToolBusy,
    /// The command id is in use or was used.
    DuplicateCommandId,
}

fn default_deadline() -> i64 {
    DEFAULT_DEADLINE_MS
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Map<String, Value>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: Value) -> Result<HostMessage, serde_json::Error> {
        serde_json::from_value(value)
    }

    /// A dispatch with `fields` on top.
    fn dispatch(fields: Value) -> Value {
        let mut message = json!({"type": "ToolDispatch", "command_id": "c", "tool": "t",
            "freshness": Freshness::new(1, &[7; ENTROPY_BYTES])});
        if let (Some(message), Value::Object(fields)) = (message.as_object_mut(), fields) {
            message.extend(fields);
        }
        message
    }

    fn without(mut message: Value, field: &str) -> Value {
        message.as_object_mut().unwrap().remove(field).unwrap();
        message
    }

    #[test]
    fn a_dispatch_has_defaults() {
        for message in [dispatch(json!({})), dispatch(json!({"params": null}))] {
            let HostMessage::ToolDispatch(dispatch) = parse(message).unwrap() else { panic!() };
            assert_eq!((dispatch.deadline_ms, dispatch.params.len()), (30_000, 0));
        }
    }

    #[test]
    fn a_dispatch_without_freshness_is_none() {
        let error = parse(without(dispatch(json!({})), "freshness")).unwrap_err();
        assert!(error.to_string().contains("missing field `freshness`"), "{error}");
        assert!(parse(dispatch(json!({"freshness": null}))).is_err());
    }

    #[test]
    fn schemas_are_closed() {
        for bad in [
            json!(null),
            json!([]),
            json!({}),
            json!({"type": "Nonsense"}),
            dispatch(json!({"type": "tooldispatch"})),
            without(dispatch(json!({"Command_Id": "c"})), "command_id"),
            dispatch(json!({"extra": 1})),
            dispatch(json!({"params": []})),
            dispatch(json!({"deadline_ms": 1.5})),
            json!({"type": "GuestQuery", "query_id": "q", "query_kind": "All", "ts": ""}),
            json!({"type": "ResetSignal", "reset_id": "r", "reason": "bored"}),
        ] {
            assert!(parse(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_on_the_wire_are_the_protocols() {
        let event = GuestMessage::ErrorEvent(ErrorEvent {
            code: ErrorCode::FrameMalformed,
            message: "m".into(),
            request_id: None,
        });
        assert_eq!(
            serde_json::to_value(event).unwrap(),
            json!({"type": "ErrorEvent", "code": "FRAME_MALFORMED", "message": "m"})
        );
        assert_eq!(
            serde_json::to_value(ResultReason::DeadlineExceeded).unwrap(),
            "deadline_exceeded"
        );
        assert_eq!(
            serde_json::to_value(ResetReason::OnCommandIdMismatch).unwrap(),
            "on_command_id_mismatch"
        );
    }
}
