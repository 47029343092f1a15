//! Everything that is known of one command in one signed file.
//!
//! The file is canonical JSON (RFC 8785 over strings in Unicode form NFC), without a byte more, and
//! has three fields:
//!
//! - `bundle`: the content, see [`Bundle`];
//! - `public_key`: the endpoint's Ed25519 key, 64 lower-case hex digits;
//! - `signature`: of that key, 128 lower-case hex digits, over
//!   SHA-256(`brainstorm-evidence-bundle-v1` 00 ‖ SHA-256(canonical JSON of `bundle`)).
//!
//! The public key in the file shows that the file is whole, not whose it is: compare it with the key
//! the endpoint enrolled with.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::ResetDetails;
use crate::store::HashedColumns;
use protocol::{CanonicalError, Timestamp, canonical_bytes};
use sandbox::Chunks;

/// Field `form` of every bundle of this form.
pub const FORM: &str = "brainstorm-evidence-bundle-v1";

/// Kind of the audit row whose payload is the envelope.
pub(super) const ENVELOPE_ROW: &str = "CommandEnvelope";
/// Kind of the audit row whose payload is the result.
pub(super) const RESULT_ROW: &str = "CommandResult";

/// A bundle and who vouches for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedBundle {
    /// The content.
    pub bundle: Bundle,
    /// The endpoint's key, in hex.
    pub public_key: String,
    /// The signature, in hex.
    pub signature: String,
}

/// Everything that is known of one command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// [`FORM`].
    pub form: String,
    /// Version of the agent that made it.
    pub agent_version: String,
    /// When it was made, as that agent's clock had it.
    pub exported_at: Timestamp,
    /// The command.
    pub command_id: String,
    /// The endpoint it ran on.
    pub endpoint_id: String,
    /// Whose endpoint that is.
    pub tenant_id: String,
    /// The signed envelope.
    pub envelope: Value,
    /// All chunks of evidence.
    pub chunks: Chunks,
    /// Hash of the last chunk.
    pub evidence_hash: String,
    /// The result as it was made durable, before it was stamped for another session.
    pub result: Value,
    /// What is known of the machine afterwards.
    pub reset: Option<ResetDetails>,
    /// SHA-256 of the image's manifest in canonical JSON.
    pub image_hash: Option<String>,
    /// The manifest itself; nothing when it is not there any more.
    pub image: Option<Value>,
    /// The rows of the audit log about the command, in their order.
    pub audit: Vec<BundledRow>,
}

/// A row of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundledRow {
    /// All columns but the two below.
    pub columns: HashedColumns,
    /// SHA-256 of the columns in canonical JSON.
    pub hash: String,
    /// The payload in base64; nothing when it is the canonical JSON of the bundle's envelope (kind
    /// `CommandEnvelope`) or result (kind `CommandResult`).
    pub payload: Option<String>,
}

impl Bundle {
    /// SHA-256 of the canonical JSON, which is what is signed.
    pub fn digest(&self) -> Result<[u8; 32], CanonicalError> {
        Ok(Sha256::digest(canonical_bytes(self)?).into())
    }
}
