//! What is kept of one command: one JSON file.

use sandbox::{Chunks, Executed};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use protocol::canonical::CanonicalError;
use protocol::envelope::CommandEnvelope;
use protocol::message::{CommandResult, SandboxResetState};
use protocol::{Json, Timestamp};

/// Version of the file's form.
pub const VERSION: u32 = 1;

/// All that is kept of one command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceRecord {
    /// [`VERSION`].
    pub version: u32,
    /// When it was written.
    pub kept_at: Timestamp,
    /// The command.
    pub command_id: String,
    /// The signed envelope as it was received, in normal form.
    pub envelope: Value,
    /// The chunks of evidence: see [`Chunks`].
    pub chunks: Chunks,
    /// The result as it was made durable.
    pub result: Value,
    /// What is known of the machine afterwards; nothing when no machine has seen the command.
    pub reset: Option<ResetDetails>,
    /// SHA-256 of the image's manifest in canonical JSON, when there is one.
    pub image: Option<String>,
}

/// What is known of a machine after its command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResetDetails {
    /// What the sources said, as the relay is told.
    pub verification: Option<SandboxResetState>,
    /// What was not as it should be, in words.
    pub findings: Vec<String>,
    /// Why the machine could not be reset.
    pub error: Option<String>,
}

impl EvidenceRecord {
    /// A record of a command that ended.
    pub fn new(
        envelope: &CommandEnvelope,
        executed: &Executed,
        result: &CommandResult,
        image: Option<String>,
        now: Timestamp,
    ) -> Result<Self, CanonicalError> {
        let no_form = |error: &dyn std::fmt::Display| CanonicalError::NoJsonForm(error.to_string());
        let text = std::str::from_utf8(&envelope.canonical).map_err(|error| no_form(&error))?;
        let chunks = match &executed.result {
            Ok(outcome) => outcome.chunks.clone(),
            Err(failure) if failure.partial.evidence_hash.is_some() => {
                failure.partial.chunks.clone()
            }
            Err(_) => Chunks::of_nothing(),
        };
        Ok(Self {
            version: VERSION,
            kept_at: now,
            command_id: envelope.command_id.clone(),
            envelope: Json::parse(text)?.into_value(),
            chunks,
            result: serde_json::to_value(result).map_err(|error| no_form(&error))?,
            reset: reset_details(executed, result),
            image,
        })
    }
}

fn reset_details(executed: &Executed, result: &CommandResult) -> Option<ResetDetails> {
    let details = match executed.reset.as_ref()? {
        Ok(verification) => ResetDetails {
            verification: result.sandbox_reset_state().cloned(),
            findings: verification.findings.iter().map(ToString::to_string).collect(),
            error: None,
        },
        Err(error) => ResetDetails { error: Some(error.to_string()), ..ResetDetails::default() },
    };
    Some(details)
}
