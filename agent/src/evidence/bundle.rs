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

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::check::{BundleFault, Trust, verify};
use super::record::VERSION;
use super::{Record, ResetDetails, archive};
use crate::keyholder::{KeyHolder, KeyHolderError, PublicIdentity};
use crate::store::{AuditFault, AuditRow, HashedColumns, StateDir, rows_about};
use protocol::shape::hex_of_bytes;
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

/// Why there is no bundle.
#[derive(Debug, Error)]
pub enum ExportError {
    /// Nothing is kept of the command.
    #[error(
        "there is no evidence of command {0}: `brainstorm-agent evidence list` shows of which there \
         is; old evidence is removed"
    )]
    Unknown(String),
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{} is not what this agent wrote: {detail}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The audit log cannot be read.
    #[error(transparent)]
    Audit(#[from] AuditFault),
    /// The key holder did not sign.
    #[error(transparent)]
    KeyHolder(#[from] KeyHolderError),
    /// It has no form in which it could be signed.
    #[error("the evidence cannot be put into a bundle: {0}")]
    Form(#[from] CanonicalError),
    /// What is kept contradicts itself, so nobody should vouch for it.
    #[error("what is kept of the command is not signed, because it is not right: {0}")]
    Wrong(#[from] BundleFault),
}

impl Bundle {
    /// Puts together what a state directory has on a command. An agent may be using the directory.
    pub fn gather(
        state_dir: &Path,
        command_id: &str,
        endpoint: &PublicIdentity,
        now: Timestamp,
    ) -> Result<Self, ExportError> {
        let dir = StateDir::evidence_in(state_dir);
        let unknown = || ExportError::Unknown(command_id.to_owned());
        let path = archive::record_path(&dir, command_id).ok_or_else(unknown)?;
        let record: Record = read(&path)?.ok_or_else(unknown)?;
        if record.version != VERSION {
            let detail = format!("it has version {}, this agent knows {VERSION}", record.version);
            return Err(ExportError::Malformed { path, detail });
        }
        let image = match &record.image {
            Some(hash) => read(&archive::image_path(&dir, hash))?,
            None => None,
        };
        let known = [canonical_bytes(&record.envelope)?, canonical_bytes(&record.result)?];
        let audit = rows_about(&StateDir::audit_in(state_dir), command_id)?
            .into_iter()
            .map(|row| BundledRow::new(row, &known))
            .collect();
        Ok(Self {
            form: FORM.to_owned(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            exported_at: now,
            command_id: record.command_id,
            endpoint_id: endpoint.endpoint_id.clone(),
            tenant_id: endpoint.tenant_id.clone(),
            envelope: record.envelope,
            evidence_hash: record.chunks.hash(command_id),
            chunks: record.chunks,
            result: record.result,
            reset: record.reset,
            image_hash: record.image,
            image,
            audit,
        })
    }

    /// SHA-256 of the canonical JSON, which is what is signed.
    pub fn digest(&self) -> Result<[u8; 32], CanonicalError> {
        Ok(Sha256::digest(canonical_bytes(self)?).into())
    }

    /// The bytes of the file, signed by the endpoint's key. What is not right is not signed.
    pub fn sign(self, holder: &KeyHolder) -> Result<Vec<u8>, ExportError> {
        let signature = holder.sign_bundle(self.digest()?)?;
        let signed = SignedBundle {
            bundle: self,
            public_key: hex_of_bytes(&holder.public().public_key),
            signature: hex_of_bytes(&signature),
        };
        let bytes = canonical_bytes(&signed)?;
        verify(&bytes, Trust::default())?;
        Ok(bytes)
    }
}

impl BundledRow {
    fn new(row: AuditRow, known: &[Vec<u8>; 2]) -> Self {
        let [envelope, result] = known;
        let repeated = match row.columns.kind.as_str() {
            ENVELOPE_ROW => row.payload == *envelope,
            RESULT_ROW => row.payload == *result,
            _ => false,
        };
        let payload = (!repeated).then(|| STANDARD.encode(&row.payload));
        Self { columns: row.columns, hash: row.hash, payload }
    }
}

/// Reads JSON; nothing when there is no file.
fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, ExportError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ExportError::Read { path: path.to_path_buf(), source }),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| ExportError::Malformed {
        path: path.to_path_buf(),
        detail: error.to_string(),
    })
}
