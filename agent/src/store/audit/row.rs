//! One row of the log, and its hash.

use rusqlite::Row;
use serde::{Deserialize, Serialize};

use super::{AuditEntry, AuditHead};
use protocol::signing::sha256_text;

/// The columns in the order in which [`StoredRow::read`] reads them.
pub(super) const COLUMNS: &str = "seq, at, channel_of_origin, kind, command_id, tenant_id, \
     endpoint_id, session_id, correlation_id, operator_id, lifecycle_state, code, \
     payload_canonical_hash, previous_hash, hash, payload";

/// What is hashed. The fields are in the order of RFC 8785 3.2.3, and serde_json writes strings
/// and integers as RFC 8785 3.2.2 wants them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashedColumns {
    /// When it happened.
    pub at: String,
    /// Where it came from.
    pub channel_of_origin: String,
    /// The code of a refusal or failure.
    pub code: Option<String>,
    /// The command it is about.
    pub command_id: Option<String>,
    /// What the operator calls it.
    pub correlation_id: Option<String>,
    /// The endpoint it is about.
    pub endpoint_id: Option<String>,
    /// What it is.
    pub kind: String,
    /// The state the command was in.
    pub lifecycle_state: Option<String>,
    /// Who asked for it.
    pub operator_id: Option<String>,
    /// SHA-256 of the payload.
    pub payload_canonical_hash: String,
    /// Hash of the row before.
    pub previous_hash: String,
    /// Number of the row, from 1.
    pub seq: i64,
    /// The session in which it happened.
    pub session_id: Option<String>,
    /// The tenant it is about.
    pub tenant_id: Option<String>,
}

impl HashedColumns {
    /// Number of the row that follows `head`.
    pub(super) fn after(head: &AuditHead, entry: &AuditEntry) -> Self {
        Self {
            at: entry.at.to_string(),
            channel_of_origin: entry.channel_of_origin.as_str().to_owned(),
            code: entry.code.clone(),
            command_id: entry.command_id.clone(),
            correlation_id: entry.correlation_id.clone(),
            endpoint_id: entry.endpoint_id.clone(),
            kind: entry.kind.clone(),
            lifecycle_state: entry.lifecycle_state.clone(),
            operator_id: entry.operator_id.clone(),
            payload_canonical_hash: sha256_text(&entry.payload),
            previous_hash: head.hash.clone(),
            seq: head.seq.saturating_add(1).cast_signed(),
            session_id: entry.session_id.clone(),
            tenant_id: entry.tenant_id.clone(),
        }
    }

    /// The hash of the row.
    pub fn hash(&self) -> String {
        // Strings and integers can always be written.
        sha256_text(&serde_json::to_vec(self).unwrap_or_default())
    }
}

/// A row as it was found.
pub(super) struct StoredRow {
    pub columns: HashedColumns,
    pub hash: String,
    pub payload: Vec<u8>,
}

impl StoredRow {
    pub fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            columns: HashedColumns {
                seq: row.get(0)?,
                at: row.get(1)?,
                channel_of_origin: row.get(2)?,
                kind: row.get(3)?,
                command_id: row.get(4)?,
                tenant_id: row.get(5)?,
                endpoint_id: row.get(6)?,
                session_id: row.get(7)?,
                correlation_id: row.get(8)?,
                operator_id: row.get(9)?,
                lifecycle_state: row.get(10)?,
                code: row.get(11)?,
                payload_canonical_hash: row.get(12)?,
                previous_hash: row.get(13)?,
            },
            hash: row.get(14)?,
            payload: row.get(15)?,
        })
    }
}

/// A row as others may have it, with its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// All but payload and hash.
    pub columns: HashedColumns,
    /// SHA-256 of the columns in canonical JSON.
    pub hash: String,
    /// What it is about.
    pub payload: Vec<u8>,
}

impl From<StoredRow> for AuditRow {
    fn from(row: StoredRow) -> Self {
        Self { columns: row.columns, hash: row.hash, payload: row.payload }
    }
}
