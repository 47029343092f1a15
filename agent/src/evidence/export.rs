//! Makes a bundle of what a state directory has on a command, and has the key holder sign it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use thiserror::Error;

use super::archive;
use super::bundle::{Bundle, BundledRow, ENVELOPE_ROW, FORM, RESULT_ROW, SignedBundle};
use super::check::{BundleFault, Trust, verify};
use super::record::{EvidenceRecord, VERSION};
use crate::keyholder::{KeyHolder, KeyHolderError, PublicIdentity};
use crate::store::{AuditFault, AuditRow, StateDir, rows_about};
use protocol::shape::hex_of_bytes;
use protocol::{CanonicalError, Timestamp, canonical_bytes};

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
    /// What is kept contradicts itself, so the endpoint does not vouch for it.
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
        let record: EvidenceRecord = read(&path)?.ok_or_else(unknown)?;
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
