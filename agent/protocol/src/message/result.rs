//! The result of a command.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::canonical::{CanonicalError, check_keys};
use crate::code::ErrorCode;
use crate::timestamp::Timestamp;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// The tool ran, and its machine was reset and seen to be clean.
    Completed,
    /// The command failed.
    Failed,
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorBody {
    /// The text of an [`ErrorCode`].
    pub code: String,
    /// For a person.
    pub message: String,
}

/// What was seen of a machine after its reset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxResetState {
    /// When it was reset.
    pub reset_at: String,
    /// The golden state it was reset to.
    pub golden_hash: String,
    /// Whether everything seen agrees with it.
    pub verification_passed: bool,
    /// What was seen.
    pub verification_details: VerificationDetails,
}

/// What was seen of a machine, beside what should be seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerificationDetails {
    /// Hash of the file system.
    pub fs_hash: String,
    /// What it should be.
    pub fs_hash_baseline: String,
    /// Whether the two are equal.
    pub fs_hash_match: bool,
    /// Open file descriptors in the guest.
    pub open_fd_count: i64,
    /// How many it should be.
    pub open_fd_count_baseline: i64,
    /// State of the machine.
    pub vmm_api_state: String,
    /// What it should be.
    pub expected_vmm_api_state: String,
    /// What follows: `none` or `halt`.
    pub divergence_action: String,
}

/// A result the protocol forbids.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IllegalResult {
    /// A completed command whose machine was not seen to be clean.
    #[error("a command whose machine was not verified after its reset cannot be completed")]
    NotVerified,
    /// A completed command with an error, or without a payload.
    #[error("a completed command has a payload and no error")]
    Completed,
    /// A failed command with a payload, or without an error.
    #[error("a failed command has an error and no payload")]
    Failed,
    /// A payload that has no canonical form would end the relay's process.
    #[error("the payload cannot be sent: {0}")]
    Payload(#[from] CanonicalError),
}

/// What every result says, whatever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultHead {
    /// The command.
    pub command_id: String,
    /// This endpoint.
    pub endpoint_id: String,
    /// The session it is sent in.
    pub session_id: String,
    /// End of the evidence chain: `sha256:` and 64 hex digits.
    pub evidence_hash: String,
    /// Now.
    pub ts: Timestamp,
}

/// Last frame about a command. Made by [`Self::completed`] or [`Self::failed`], or read from the
/// journal; none of them gives a combination the protocol forbids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ResultFields")]
pub struct CommandResult(ResultFields);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "CommandResult")]
struct ResultFields {
    command_id: String,
    endpoint_id: String,
    session_id: String,
    lifecycle_state: Lifecycle,
    payload: Option<Value>,
    error: Option<ErrorBody>,
    evidence_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sandbox_reset_state: Option<SandboxResetState>,
    resumed: bool,
    ts: Timestamp,
}

impl CommandResult {
    /// The tool ran, and its machine was reset and verified. The payload must be an object.
    pub fn completed(
        head: ResultHead,
        payload: Value,
        reset: SandboxResetState,
    ) -> Result<Self, IllegalResult> {
        ResultFields::new(head, Lifecycle::Completed, Some(payload), None, Some(reset)).try_into()
    }

    /// A command that failed. `reset` is what was seen of the machine, when it was reset.
    pub fn failed(
        head: ResultHead,
        code: ErrorCode,
        message: impl Into<String>,
        reset: Option<SandboxResetState>,
    ) -> Self {
        let error = ErrorBody { code: code.as_str().to_owned(), message: message.into() };
        Self(ResultFields::new(head, Lifecycle::Failed, None, Some(error), reset))
    }

    /// This result as another session sends it again.
    #[must_use]
    pub fn resumed(mut self, session_id: impl Into<String>, ts: Timestamp) -> Self {
        self.0.session_id = session_id.into();
        self.0.ts = ts;
        self.0.resumed = true;
        self
    }

    /// The command.
    pub fn command_id(&self) -> &str {
        &self.0.command_id
    }

    /// The session it is stamped with.
    pub fn session_id(&self) -> &str {
        &self.0.session_id
    }

    /// How the command ended.
    pub fn lifecycle_state(&self) -> Lifecycle {
        self.0.lifecycle_state
    }

    /// What the tool gave; only of a completed command.
    pub fn payload(&self) -> Option<&Value> {
        self.0.payload.as_ref()
    }

    /// Why it failed; only of a failed command.
    pub fn error(&self) -> Option<&ErrorBody> {
        self.0.error.as_ref()
    }

    /// End of the evidence chain.
    pub fn evidence_hash(&self) -> &str {
        &self.0.evidence_hash
    }

    /// What was seen of the machine after its reset.
    pub fn sandbox_reset_state(&self) -> Option<&SandboxResetState> {
        self.0.sandbox_reset_state.as_ref()
    }
}

impl ResultFields {
    fn new(
        head: ResultHead,
        lifecycle_state: Lifecycle,
        payload: Option<Value>,
        error: Option<ErrorBody>,
        sandbox_reset_state: Option<SandboxResetState>,
    ) -> Self {
        let ResultHead { command_id, endpoint_id, session_id, evidence_hash, ts } = head;
        Self {
            command_id,
            endpoint_id,
            session_id,
            lifecycle_state,
            payload,
            error,
            evidence_hash,
            sandbox_reset_state,
            resumed: false,
            ts,
        }
    }
}

impl TryFrom<ResultFields> for CommandResult {
    type Error = IllegalResult;

    fn try_from(fields: ResultFields) -> Result<Self, IllegalResult> {
        match (fields.lifecycle_state, &fields.payload, &fields.error) {
            (Lifecycle::Completed, Some(payload @ Value::Object(_)), None) => {
                let passed =
                    fields.sandbox_reset_state.as_ref().is_some_and(|s| s.verification_passed);
                if !passed {
                    return Err(IllegalResult::NotVerified);
                }
                check_keys(payload)?;
            }
            (Lifecycle::Completed, ..) => return Err(IllegalResult::Completed),
            (Lifecycle::Failed, None, Some(_)) => {}
            (Lifecycle::Failed, ..) => return Err(IllegalResult::Failed),
        }
        Ok(Self(fields))
    }
}
