//! The log's tables, on the writer's thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, params};

use super::row::{COLUMNS, HashedColumns};
use super::{AuditEntry, AuditHead, Channel, LOST, SharedHead};
use crate::store::StoreError;
use crate::store::writer::Ledger;
use protocol::timestamp::Timestamp;

/// The end of the log.
#[derive(Clone)]
pub(super) struct Chain {
    head: AuditHead,
    /// The head as it is in the database.
    written: u64,
    /// Lost entries that a row of this transaction stands for.
    recorded: u64,
    shared: Arc<SharedHead>,
}

impl Chain {
    pub fn new(shared: Arc<SharedHead>) -> Self {
        Self { head: AuditHead::none(), written: 0, recorded: 0, shared }
    }

    /// Adds a row. Gives its number and hash.
    pub fn append(
        &mut self,
        database: &Connection,
        entry: &AuditEntry,
    ) -> rusqlite::Result<AuditHead> {
        self.record_losses(database, entry.at)?;
        self.write(database, entry)
    }

    /// Adds a row that stands for lost entries, when there are any. Gives the head.
    pub fn record_losses(
        &mut self,
        database: &Connection,
        now: Timestamp,
    ) -> rusqlite::Result<AuditHead> {
        let unrecorded = self.shared.unrecorded.load(Ordering::SeqCst);
        let lost = unrecorded.saturating_sub(self.recorded);
        if lost > 0 {
            let payload = format!("{{\"lost\":{lost}}}").into_bytes();
            self.write(database, &AuditEntry::new(now, Channel::Endpoint, LOST, payload))?;
            self.recorded = unrecorded;
        }
        Ok(self.head.clone())
    }

    fn write(&mut self, database: &Connection, entry: &AuditEntry) -> rusqlite::Result<AuditHead> {
        let columns = HashedColumns::after(&self.head, entry);
        let hash = columns.hash();
        let sql = format!(
            "INSERT INTO audit ({COLUMNS})
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)"
        );
        database.prepare_cached(&sql)?.execute(params![
            columns.seq,
            columns.at,
            columns.channel_of_origin,
            columns.kind,
            columns.command_id,
            columns.tenant_id,
            columns.endpoint_id,
            columns.session_id,
            columns.correlation_id,
            columns.operator_id,
            columns.lifecycle_state,
            columns.code,
            columns.payload_canonical_hash,
            columns.previous_hash,
            hash,
            entry.payload,
        ])?;
        self.head = AuditHead { seq: columns.seq.unsigned_abs(), hash };
        Ok(self.head.clone())
    }
}

impl Ledger for Chain {
    fn load(&mut self, database: &Connection) -> rusqlite::Result<()> {
        self.recorded = 0;
        self.head = database.query_row("SELECT seq, hash FROM head", [], |row| {
            Ok(AuditHead { seq: row.get::<_, i64>(0)?.unsigned_abs(), hash: row.get(1)? })
        })?;
        self.written = self.head.seq;
        Ok(())
    }

    fn complete(&mut self, database: &Connection) -> rusqlite::Result<()> {
        if self.head.seq != self.written {
            database
                .prepare_cached("UPDATE head SET seq = ?1, hash = ?2")?
                .execute((self.head.seq.cast_signed(), &self.head.hash))?;
        }
        Ok(())
    }

    fn publish(&mut self) {
        self.written = self.head.seq;
        self.shared.unrecorded.fetch_sub(self.recorded, Ordering::SeqCst);
        self.recorded = 0;
        self.shared.head().clone_from(&self.head);
    }

    fn lost(&self, jobs: u64, error: &StoreError) {
        tracing::error!(entries = jobs, %error, "entries of the audit log are lost");
        self.shared.lose(jobs);
    }
}
