//! A command from the relay: its closed schema.

mod fields;

use serde::Serialize;
use serde_json::{Map, Value};

use super::canonical::Json;
use super::canonical::signed::Canonical;
use super::shape::{is_nonce, is_uuid};
use super::signing::Domain;
use super::timestamp::Timestamp;
use fields::{Fields, Problem};

/// Longest envelope, in bytes.
pub const MAX_ENVELOPE_BYTES: usize = 1 << 20;

/// Longest `tool` and `correlation_id`, in bytes.
const MAX_NAME: usize = 256;

/// Who asked for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OperatorKind {
    /// A person.
    Human,
    /// A program, on behalf of a person.
    Agent,
}

/// Who asked for a command, as the relay says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Operator {
    /// A person or a program.
    pub kind: OperatorKind,
    /// Who.
    pub id: String,
    /// The person behind it; always there for a program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub originating_human_id: Option<String>,
}

/// A command whose shape is right. [`verify`](super::verify::verify) gives one whose signature,
/// audience and times are right as well.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandEnvelope {
    /// The command, a UUID.
    pub command_id: String,
    /// The tenant.
    pub tenant_id: String,
    /// The endpoint, a UUID.
    pub target_endpoint_id: String,
    /// Joins what belongs together: 1 to 256 visible ASCII characters.
    pub correlation_id: String,
    /// The session, a UUID.
    pub session_id: String,
    /// The tool: 1 to 256 printable ASCII characters.
    pub tool: String,
    /// The tool's parameters as they were signed: text in NFC, numbers as doubles (whole ones
    /// within ±2^53 read as integers).
    pub params: Map<String, Value>,
    /// Who asked for it.
    pub operator: Operator,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// 32 bytes in base64url without padding, used once.
    pub nonce: String,
    /// The key that signed it.
    pub signing_key_id: String,
    /// Canonical bytes of the whole frame, signature included.
    pub canonical: Vec<u8>,
}

/// An envelope of the right shape, and what is needed to see whether its signature is right.
pub(super) struct Unverified {
    pub envelope: CommandEnvelope,
    pub algorithm: String,
    pub signature: String,
    pub digest: [u8; 32],
}

impl Unverified {
    /// Checks the closed schema.
    pub fn read(json: Json) -> Result<Self, Problem> {
        let Json::Object(entries) = json else { return Err(Problem::not_an_object()) };
        let canonical = Canonical::of_object(&entries, "signature");
        let mut fields = Fields::new(entries, "");
        fields.literal("type", "CommandEnvelope")?;
        fields.literal("lifecycle_state", "dispatched")?;
        let unverified = Self {
            algorithm: fields.text("signature_algo")?,
            signature: fields.text("signature")?,
            digest: canonical.digest_without_signature(Domain::CommandEnvelope),
            envelope: CommandEnvelope {
                command_id: fields.text_that("command_id", "a UUID", is_uuid)?,
                tenant_id: fields.some_text("tenant_id")?,
                target_endpoint_id: fields.text_that("target_endpoint_id", "a UUID", is_uuid)?,
                correlation_id: fields.text_that(
                    "correlation_id",
                    "1 to 256 visible ASCII characters",
                    |text| is_name(text, b'!'),
                )?,
                session_id: fields.text_that("session_id", "a UUID", is_uuid)?,
                tool: fields.text_that("tool", "1 to 256 printable ASCII characters", |text| {
                    is_name(text, b' ')
                })?,
                params: fields.object("params")?,
                operator: operator(fields.operator()?)?,
                issued_at: fields.time("issued_at")?,
                expires_at: fields.time("expires_at")?,
                nonce: fields.text_that(
                    "nonce",
                    "32 bytes in base64url without padding, 43 characters",
                    is_nonce,
                )?,
                signing_key_id: fields.some_text("signing_key_id")?,
                canonical: canonical.bytes,
            },
        };
        fields.end()?;
        Ok(unverified)
    }
}

fn operator(mut fields: Fields) -> Result<Operator, Problem> {
    let kind = match fields.text("kind")?.as_str() {
        "human" => OperatorKind::Human,
        "agent" => OperatorKind::Agent,
        _ => return Err(fields.wrong("kind", "`human` or `agent`")),
    };
    let id = fields.some_text("id")?;
    let originating_human_id = match kind {
        OperatorKind::Agent => Some(fields.some_text("originating_human_id")?),
        OperatorKind::Human => fields.optional_text("originating_human_id")?,
    };
    fields.end()?;
    Ok(Operator { kind, id, originating_human_id })
}

/// 1 to 256 ASCII characters from `first` to `~`.
fn is_name(text: &str, first: u8) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(|byte| (first..=b'~').contains(&byte))
}
