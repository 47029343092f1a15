//! The audit log: what came in, what was refused, what came of it, in rows linked by their hashes.
//!
//! The file is an SQLite database with one table, `audit`. Its columns are `seq` (from 1, without
//! gaps), `at` (RFC 3339), `channel_of_origin`, `kind`, `command_id`, `tenant_id`, `endpoint_id`,
//! `session_id`, `correlation_id`, `operator_id`, `lifecycle_state`, `code`, `payload` (the
//! canonical bytes of the frame, signature included), `payload_canonical_hash`, `previous_hash`
//! and `hash`. Every hash is `sha256:` and 64 lower-case hex digits:
//!
//! - `payload_canonical_hash` is that of `payload`.
//! - `previous_hash` is the `hash` of the row before; of the first row it has 64 zeros.
//! - `hash` is that of the row as canonical JSON (RFC 8785): an object with all columns but
//!   `payload` and `hash`, a column without a value being `null`. Strings are taken as they are,
//!   without Unicode normalisation.
//!
//! So nothing can be changed, taken out or moved without changing the hash of the last row, the
//! head. The table `head` repeats it to show a log that lost its end. A process that can write the
//! file can make all of it anew: to rule that out, keep a head elsewhere and verify against it.
//! This verifies a log without the agent (Python 3):
//!
//! ```python
//! import hashlib, json, sqlite3
//! sha256 = lambda data: "sha256:" + hashlib.sha256(data).hexdigest()
//! log = sqlite3.connect("file:audit.db?mode=ro", uri=True)
//! log.row_factory = sqlite3.Row
//! seq, previous = 0, "sha256:" + "0" * 64
//! for row in map(dict, log.execute("SELECT * FROM audit ORDER BY seq")):
//!     payload, claimed = row.pop("payload"), row.pop("hash")
//!     assert row["seq"] == seq + 1, "rows are missing"
//!     assert row["previous_hash"] == previous, "rows were moved or taken out"
//!     assert row["payload_canonical_hash"] == sha256(payload), "the payload was altered"
//!     text = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
//!     assert sha256(text.encode()) == claimed, "the row was altered"
//!     seq, previous = row["seq"], claimed
//! print(seq, previous)
//! ```
//!
//! # What happens to entries that cannot be written
//!
//! A caller that waits for an entry is told, and the entry is not in the log. An entry without a waiter
//! may be lost: when too much waits to be written, or when the disk fails. Nothing is lost
//! silently: the next row that can be written is preceded by one of kind [`LOST`] with the number
//! of lost entries, and the next call that waits for the log fails once with
//! [`StoreError::EntriesLost`], without doing anything.

mod chain;
mod row;
mod verify;

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::StoreError;
use super::database::{self, DamageCheck, Kind};
use super::writer::Writer;
use chain::Chain;
use protocol::timestamp::Timestamp;
pub use row::{AuditRow, HashedColumns};
pub use verify::{
    AuditFault, AuditReport, Expected, RowFault, rows_about, verify_audit, verify_audit_against,
};

/// Kind of the row that stands for entries that were lost. Its payload is `{"lost":N}`.
pub const LOST: &str = "AuditEntriesLost";

/// Longest payload of an entry, in bytes.
pub const MAX_PAYLOAD: usize = 8 << 20;

/// Entries that may wait.
const QUEUE: usize = 8192;

/// Most bytes of queued entries that no caller waits for.
const QUEUE_BYTES: usize = 64 << 20;

/// Rows at the end that are verified when a log is opened.
const VERIFIED_AT_START: u64 = 1000;

const KIND: Kind = Kind {
    name: "audit log",
    application_id: 0x4253_4d61,
    version: 1,
    schema: "
        CREATE TABLE audit (
            seq INTEGER PRIMARY KEY CHECK (seq > 0),
            at TEXT NOT NULL,
            channel_of_origin TEXT NOT NULL,
            kind TEXT NOT NULL,
            command_id TEXT,
            tenant_id TEXT,
            endpoint_id TEXT,
            session_id TEXT,
            correlation_id TEXT,
            operator_id TEXT,
            lifecycle_state TEXT,
            code TEXT,
            payload BLOB NOT NULL,
            payload_canonical_hash TEXT NOT NULL,
            previous_hash TEXT NOT NULL,
            hash TEXT NOT NULL
        ) STRICT;
        CREATE TABLE head (
            only INTEGER PRIMARY KEY CHECK (only = 1),
            seq INTEGER NOT NULL,
            hash TEXT NOT NULL
        ) STRICT;
        INSERT INTO head VALUES
            (1, 0, 'sha256:0000000000000000000000000000000000000000000000000000000000000000');
        CREATE TRIGGER audit_is_never_altered BEFORE UPDATE ON audit
            BEGIN SELECT raise(ABORT, 'rows of the audit log are never altered'); END;
        CREATE TRIGGER audit_is_never_cut BEFORE DELETE ON audit
            BEGIN SELECT raise(ABORT, 'rows of the audit log are never deleted'); END;
    ",
    shared: true,
    check: DamageCheck::Structure,
};

/// Where something came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channel {
    /// An operator, through the relay.
    Operator,
    /// The relay itself.
    RelayInternal,
    /// This agent.
    Endpoint,
    /// A tool in its machine.
    Sandbox,
}

impl Channel {
    /// As the protocol writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::RelayInternal => "relay-internal",
            Self::Endpoint => "endpoint",
            Self::Sandbox => "sandbox",
        }
    }
}

/// Something to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When it happened.
    pub at: Timestamp,
    /// Where it came from.
    pub channel_of_origin: Channel,
    /// What it is, such as the type of a frame.
    pub kind: String,
    /// The command it is about.
    pub command_id: Option<String>,
    /// The tenant it is about.
    pub tenant_id: Option<String>,
    /// The endpoint it is about.
    pub endpoint_id: Option<String>,
    /// The session in which it happened.
    pub session_id: Option<String>,
    /// What the operator calls it.
    pub correlation_id: Option<String>,
    /// Who asked for it.
    pub operator_id: Option<String>,
    /// The state the command was in.
    pub lifecycle_state: Option<String>,
    /// The code of a refusal or failure.
    pub code: Option<String>,
    /// The frame, in canonical bytes, or whatever else it is about.
    pub payload: Vec<u8>,
}

impl AuditEntry {
    /// An entry that is about nothing in particular, to be filled in.
    pub fn new(at: Timestamp, origin: Channel, kind: &str, payload: Vec<u8>) -> Self {
        Self {
            at,
            channel_of_origin: origin,
            kind: kind.to_owned(),
            command_id: None,
            tenant_id: None,
            endpoint_id: None,
            session_id: None,
            correlation_id: None,
            operator_id: None,
            lifecycle_state: None,
            code: None,
            payload,
        }
    }

    /// Bytes it takes while it waits, about.
    fn weight(&self) -> usize {
        const FIXED: usize = size_of::<AuditEntry>() + 512;
        self.payload.len().saturating_add(FIXED)
    }
}

/// The last row of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditHead {
    /// Number of the last row, which is the number of rows.
    pub seq: u64,
    /// Hash of the last row.
    pub hash: String,
}

impl AuditHead {
    /// The head of a log without rows.
    fn none() -> Self {
        Self { seq: 0, hash: format!("sha256:{}", "0".repeat(64)) }
    }
}

/// What the log's owner and its thread both know.
struct SharedHead {
    head: Mutex<AuditHead>,
    /// Bytes of queued entries that no caller waits for.
    waiting: AtomicUsize,
    /// Lost entries that no row stands for yet.
    unrecorded: AtomicU64,
    /// Lost entries that no caller was told of.
    untold: AtomicU64,
}

impl SharedHead {
    fn lose(&self, entries: u64) {
        self.unrecorded.fetch_add(entries, Ordering::SeqCst);
        self.untold.fetch_add(entries, Ordering::SeqCst);
    }

    fn head(&self) -> MutexGuard<'_, AuditHead> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives back its bytes when an entry no longer waits, whatever became of it.
struct WaitingBytes(Arc<SharedHead>, usize);

impl Drop for WaitingBytes {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(self.1, Ordering::SeqCst);
    }
}

/// The audit log, on disk.
pub struct AuditLog {
    writer: Writer<Chain>,
    shared: Arc<SharedHead>,
}

impl AuditLog {
    /// Opens the log, or makes it. Refuses a file whose pages are damaged, which takes one or two
    /// seconds for each GB to find, and a log that is broken in its last 1000 rows, naming the row.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let (database, path) = database::open(path, &KIND)?;
        verify::tail(&database, VERIFIED_AT_START)
            .map_err(|fault| fault.into_store_error(&path))?;
        let shared = Arc::new(SharedHead {
            head: Mutex::new(AuditHead::none()),
            waiting: AtomicUsize::new(0),
            unrecorded: AtomicU64::new(0),
            untold: AtomicU64::new(0),
        });
        let chain = Chain::new(Arc::clone(&shared));
        let writer = Writer::start("audit", path, database, chain, QUEUE)?;
        Ok(Self { writer, shared })
    }

    /// Queues an entry; never waits. It is on disk once a later [`AuditLog::flush`] returns `Ok`.
    /// When it is lost, the log and the next one who waits are told: see the module.
    pub fn append(&self, entry: AuditEntry) {
        let weight = entry.weight();
        let room = WaitingBytes(Arc::clone(&self.shared), weight);
        let waiting = self.shared.waiting.fetch_add(weight, Ordering::SeqCst);
        let queued = if entry.payload.len() > MAX_PAYLOAD {
            Err(self.too_long(&entry))
        } else if waiting.saturating_add(weight) > QUEUE_BYTES {
            Err(StoreError::Overloaded { path: self.path().to_path_buf() })
        } else {
            self.writer.cast(move |chain, database| {
                let _room = room;
                chain.append(database, &entry).map(|_| ())
            })
        };
        if let Err(error) = queued {
            tracing::error!(%error, "an entry of the audit log is lost");
            self.shared.lose(1);
        }
    }

    /// Writes an entry, after all that were queued before. When this returns `Ok` it is on disk;
    /// the head is that entry's row.
    pub async fn append_durable(&self, entry: AuditEntry) -> Result<AuditHead, StoreError> {
        if entry.payload.len() > MAX_PAYLOAD {
            return Err(self.too_long(&entry));
        }
        self.tell_of_losses()?;
        self.writer.call(move |chain, database| chain.append(database, &entry)).await
    }

    /// Waits until all that was queued before is on disk.
    pub async fn flush(&self) -> Result<AuditHead, StoreError> {
        let now = Timestamp::now();
        let head =
            self.writer.call(move |chain, database| chain.record_losses(database, now)).await;
        self.tell_of_losses()?;
        head
    }

    /// The last row that is on disk.
    pub fn head(&self) -> AuditHead {
        self.shared.head().clone()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.writer.path()
    }

    fn tell_of_losses(&self) -> Result<(), StoreError> {
        match self.shared.untold.swap(0, Ordering::SeqCst) {
            0 => Ok(()),
            entries => Err(StoreError::EntriesLost { path: self.path().to_path_buf(), entries }),
        }
    }

    fn too_long(&self, entry: &AuditEntry) -> StoreError {
        let detail = format!(
            "the payload of a {} has {} bytes, more than {MAX_PAYLOAD}",
            entry.kind,
            entry.payload.len()
        );
        StoreError::Refused { path: self.path().to_path_buf(), detail }
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        let now = Timestamp::now();
        let recorded =
            self.writer.cast(move |chain, database| chain.record_losses(database, now).map(|_| ()));
        let untold = self.shared.untold.load(Ordering::SeqCst);
        if untold > 0 || recorded.is_err() {
            let path = self.path().display();
            tracing::error!(%path, entries = untold, "the audit log closes with entries lost");
        }
    }
}

#[cfg(test)]
mod tests;
