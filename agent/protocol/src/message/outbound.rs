//! Frames from the endpoint to the relay.

use guest::registry::Track;
use serde::Serialize;

use super::CommandResult;
use crate::code::ErrorCode;
use crate::timestamp::Timestamp;

/// Longest frame that relays are sent unless something else is configured, in bytes: they take 64 KiB.
pub const DEFAULT_FRAME_BYTES: usize = 60 << 10;

/// Longest frame that can be configured, in bytes.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// A frame that can be sent.
pub trait Frame: Serialize {
    /// The frame as JSON, field `type` first.
    fn to_text(&self) -> String {
        match serde_json::to_string(self) {
            Ok(text) => text,
            Err(error) => unreachable!("frames are plain structs with text keys: {error}"),
        }
    }
}

impl Frame for EndpointHello {}
impl Frame for CommandAck {}
impl Frame for ProgressEvent {}
impl Frame for CommandResult {}
impl Frame for ErrorEvent {}
impl Frame for HealthPing {}
impl Frame for HealthPong {}

/// First frame of a connection; nothing may follow it before the relay's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type")]
pub struct EndpointHello {
    /// This endpoint.
    pub endpoint_id: String,
    /// The endpoint's tenant.
    pub tenant_id: String,
    /// Version of the agent.
    pub agent_version: String,
    /// [`PROTOCOL_VERSION`](crate::PROTOCOL_VERSION).
    pub agent_protocol_version: String,
    /// Proof of the endpoint's key.
    pub connection_proof: ConnectionProof,
}

/// Proof of the endpoint's key, over
/// [`connection_proof_bytes`](crate::signing::connection_proof_bytes).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConnectionProof {
    /// The string that was signed; the relay takes it for 60 s.
    pub ts: String,
    /// Standard base64 with padding, of 64 bytes.
    pub signature: String,
}

/// The envelope is accepted. Exactly once for a command, within 5 s of the relay's write, and before
/// anything else about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type")]
pub struct CommandAck {
    /// The command.
    pub command_id: String,
    /// This endpoint.
    pub endpoint_id: String,
    /// The session.
    pub session_id: String,
    /// What the tool does.
    pub track: Track,
    /// Whether progress will be reported.
    pub will_emit_progress: bool,
    /// About how long it will take, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_duration_ms: Option<u64>,
    /// Now.
    pub ts: Timestamp,
}

/// How far a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgressState {
    /// The command's tool runs.
    Started,
    /// There is more to say.
    Progress,
}

/// A command goes on.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type")]
pub struct ProgressEvent {
    /// The command.
    pub command_id: String,
    /// This endpoint.
    pub endpoint_id: String,
    /// The session.
    pub session_id: String,
    /// How far it is.
    pub lifecycle_state: ProgressState,
    /// Counts the events of a command.
    pub seq: u64,
    /// More about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Now.
    pub ts: Timestamp,
}

/// Progress of a tool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    /// From 0 to 1.
    pub fraction: f64,
    /// For a person.
    pub message: String,
}

/// What an [`ErrorEvent`] names that is about no command, or about none that it may end: the nil
/// UUID (RFC 9562, 5.9).
pub const NO_COMMAND: &str = "00000000-0000-0000-0000-000000000000";

/// A frame was refused, or a command ended without a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type")]
pub struct ErrorEvent {
    /// The command, or [`NO_COMMAND`].
    pub command_id: String,
    /// This endpoint.
    pub endpoint_id: String,
    /// The session.
    pub session_id: String,
    /// The kind of error.
    pub code: ErrorCode,
    /// For a person.
    pub message: String,
    /// Now.
    pub ts: Timestamp,
}

/// Asks the relay whether it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type")]
pub struct HealthPing {
    /// The session.
    pub session_id: String,
    /// Now.
    pub ts: Timestamp,
    /// Comes back in the answer.
    pub ping_id: String,
}

/// How the agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentHealth {
    /// Takes commands.
    Ok,
    /// Takes none, or fewer than it should.
    Degraded,
}

/// Answers the relay's question how the agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type")]
pub struct HealthPong {
    /// The session.
    pub session_id: String,
    /// Now.
    pub ts: Timestamp,
    /// From the question.
    pub ping_id: String,
    /// The agent.
    pub agent_health: AgentHealth,
    /// State of the endpoint's machines.
    pub sandbox_state: WireState,
    /// This endpoint.
    pub endpoint_id: String,
}

/// The relay's view of a sandbox, field `sandbox_state` of its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WireState {
    /// Takes commands.
    Ready,
    /// Will take commands.
    Resetting,
    /// Takes none.
    Failed,
}
