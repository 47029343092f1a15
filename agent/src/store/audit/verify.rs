//! Walking a log and finding what is wrong with it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde::Serialize;
use thiserror::Error;

use super::row::{AuditRow, COLUMNS, StoredRow};
use super::{AuditHead, KIND};
use crate::store::StoreError;
use crate::store::database::{DamageCheck, check, harden, real_path, require_kind, sidecar_path};
use protocol::signing::sha256_text;

/// What an undamaged log holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// Number of rows.
    pub rows: u64,
    /// When the first one was written.
    pub first: Option<String>,
    /// When the last one was written.
    pub last: Option<String>,
    /// The last row.
    pub head: AuditHead,
    /// Row of the head that was expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_seq: Option<u64>,
}

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuditFault {
    /// The first row that is wrong.
    #[error("row {seq}: {what}")]
    Row {
        /// Number of the row.
        seq: i64,
        /// What is wrong with it.
        what: RowFault,
    },
    /// The end is missing, or was added by something else.
    #[error("after row {last}: the log says that it ends with row {head}; rows at its end {}",
            if last < head { "were cut off" } else { "were added by something else" })]
    End {
        /// The last row there is.
        last: u64,
        /// The last row there should be, by what the log itself says.
        head: u64,
    },
    /// The last row is not the one the log says it is.
    #[error("row {seq}: it is not the row the log says it ends with; its end was replaced")]
    OtherEnd {
        /// The last row.
        seq: u64,
    },
    /// The log is whole and is not the one that was expected.
    #[error(
        "after row {last}: no row has the expected head {expected}; rows at the end were cut off, \
         or this is another log"
    )]
    HeadMissing {
        /// The last row there is.
        last: u64,
        /// What was expected.
        expected: String,
    },
    /// The log is whole and has another row where an anchor was taken.
    #[error(
        "row {seq} is not the one that was anchored: it has {found}, the anchor says {expected}; \
         the log was written anew, or this is another log"
    )]
    AnchorDiffers {
        /// The row.
        seq: u64,
        /// Hash of the row.
        found: String,
        /// The anchor's.
        expected: String,
    },
    /// The log is whole and ends before an anchor.
    #[error(
        "after row {last}: row {seq} was anchored and is not there; rows at the end were cut off, \
         or this is another log"
    )]
    AnchorMissing {
        /// The last row there is.
        last: u64,
        /// The anchor's.
        seq: u64,
    },
    /// The file cannot be read.
    #[error(transparent)]
    Unreadable(StoreError),
}

/// What is wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RowFault {
    /// The hash of the row is not that of its columns.
    #[error("it does not match its hash: it was altered")]
    Altered,
    /// The payload is not the one that was hashed.
    #[error("its payload does not match the payload's hash: it was altered")]
    PayloadAltered,
    /// Rows before it are missing.
    #[error("it follows row {follows}: the rows between them were cut out")]
    CutOut {
        /// The row it follows.
        follows: i64,
    },
    /// It links to another row than the one before it.
    #[error("it links to row {links_to}: rows were moved")]
    Moved {
        /// The row it links to.
        links_to: i64,
    },
    /// It links to no row of the log.
    #[error(
        "it does not link to the row before it: that one was replaced, or rows between them were \
         cut out and the rest numbered anew"
    )]
    Unlinked,
}

impl AuditFault {
    /// The row at which, or after which, something is wrong.
    pub fn seq(&self) -> Option<i64> {
        match self {
            Self::Row { seq, .. } => Some(*seq),
            Self::End { last, .. }
            | Self::HeadMissing { last, .. }
            | Self::AnchorMissing { last, .. } => Some(last.cast_signed()),
            Self::OtherEnd { seq } | Self::AnchorDiffers { seq, .. } => Some(seq.cast_signed()),
            Self::Unreadable(_) => None,
        }
    }

    /// The log is opened by a process that does not write to it.
    pub(super) fn into_store_error(self, path: &Path) -> StoreError {
        match self {
            Self::Unreadable(error) => error,
            fault => StoreError::Corrupt { path: path.to_path_buf(), detail: fault.to_string() },
        }
    }
}

/// What has to be in a log, because it was noted elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expected<'a> {
    /// Some row has this hash.
    pub head: Option<&'a str>,
    /// These rows have these hashes.
    pub anchors: &'a [AuditHead],
}

/// Walks all of a log without changing it, also while an agent writes to it.
pub fn verify_audit(path: &Path) -> Result<AuditReport, AuditFault> {
    verify_audit_against(path, Expected::default())
}

/// Like [`verify_audit`], and wants heads that were noted elsewhere. The log may have grown since.
pub fn verify_audit_against(
    path: &Path,
    expected: Expected<'_>,
) -> Result<AuditReport, AuditFault> {
    read_whole(path, |log, path| walk_all(log, path, expected))
}

/// The rows about a command, in their order and as they are: nothing is verified.
pub fn rows_about(path: &Path, command_id: &str) -> Result<Vec<AuditRow>, AuditFault> {
    read_whole(path, |log, path| {
        let sqlite = |error| AuditFault::Unreadable(StoreError::of_sqlite(path, &error));
        let query = format!("SELECT {COLUMNS} FROM audit WHERE command_id = ?1 ORDER BY seq");
        let mut statement = log.prepare(&query).map_err(sqlite)?;
        let rows = statement.query_map([command_id], StoredRow::read).map_err(sqlite)?;
        rows.map(|row| row.map(AuditRow::from).map_err(sqlite)).collect()
    })
}

/// Reads a log of which all must be the same state, without changing it, also while an agent writes
/// to it.
fn read_whole<T>(
    path: &Path,
    read: impl Fn(&Connection, &Path) -> Result<T, AuditFault>,
) -> Result<T, AuditFault> {
    let path = real_path(path).map_err(AuditFault::Unreadable)?;
    let untouched = !is_written_to(&path);
    let read_once = |untouched| open(&path, untouched).and_then(|log| read(&log, &path));
    let result = read_once(untouched);
    if untouched && is_written_to(&path) {
        // An agent started meanwhile, so what was read may have been half of something.
        return read_once(false);
    }
    result
}

/// Whether a log of changes is beside the file, as it is while an agent runs or after it crashed.
fn is_written_to(path: &Path) -> bool {
    fs::symlink_metadata(sidecar_path(path, "-wal")).is_ok()
}

/// `untouched` files are read without making any other beside them, so also from media that
/// cannot be written.
fn open(path: &Path, untouched: bool) -> Result<Connection, AuditFault> {
    let sqlite = |error| AuditFault::Unreadable(StoreError::of_sqlite(path, &error));
    fs::metadata(path).map_err(|error| AuditFault::Unreadable(StoreError::of_io(path, &error)))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let log = Connection::open_with_flags(uri(path, untouched), flags).map_err(sqlite)?;
    harden(&log).map_err(sqlite)?;
    require_kind(&log, path, &KIND).map_err(AuditFault::Unreadable)?;
    Ok(log)
}

fn uri(path: &Path, immutable: bool) -> PathBuf {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            // Writing to a string cannot fail.
            byte => drop(write!(uri, "%{byte:02X}")),
        }
    }
    uri.push_str(if immutable { "?immutable=1" } else { "" });
    PathBuf::from(uri)
}

/// Verifies the last rows, for the log's own agent.
pub(super) fn tail(database: &Connection, rows: u64) -> Result<(), AuditFault> {
    let path = PathBuf::from(database.path().unwrap_or_default());
    let sqlite = |error| AuditFault::Unreadable(StoreError::of_sqlite(&path, &error));
    let last: i64 = database
        .query_row("SELECT coalesce(max(seq), 0) FROM audit", [], |row| row.get(0))
        .map_err(sqlite)?;
    let after = last.saturating_sub(rows.cast_signed()).max(0);
    walk(database, &path, after, Expected::default()).map(|_| ())
}

fn walk_all(
    log: &Connection,
    path: &Path,
    expected: Expected<'_>,
) -> Result<AuditReport, AuditFault> {
    let sqlite = |error| AuditFault::Unreadable(StoreError::of_sqlite(path, &error));
    // One transaction, so that all of it is the same state of the log.
    log.execute_batch("BEGIN").map_err(sqlite)?;
    check(log, path, DamageCheck::Structure).map_err(AuditFault::Unreadable)?;
    let report = walk(log, path, 0, expected)?;
    if let Some(missing) = expected.anchors.iter().find(|anchor| anchor.seq > report.rows) {
        return Err(AuditFault::AnchorMissing { last: report.rows, seq: missing.seq });
    }
    match expected.head {
        Some(expected) if report.expected_seq.is_none() => {
            Err(AuditFault::HeadMissing { last: report.rows, expected: expected.to_owned() })
        }
        _ => Ok(report),
    }
}

/// Walks the rows after a certain one, and compares the last with the head.
fn walk(
    log: &Connection,
    path: &Path,
    after: i64,
    expected: Expected<'_>,
) -> Result<AuditReport, AuditFault> {
    let sqlite = |error| AuditFault::Unreadable(StoreError::of_sqlite(path, &error));
    let mut previous = AuditHead::none();
    if after > 0 {
        let hash = log
            .query_row("SELECT hash FROM audit WHERE seq = ?1", [after], |row| row.get(0))
            .optional()
            .map_err(sqlite)?;
        // Without a row to follow, the first one is found to be cut off from what was before.
        previous = hash.map_or(previous, |hash| AuditHead { seq: after.unsigned_abs(), hash });
    }
    let mut report = AuditReport {
        rows: previous.seq,
        first: None,
        last: None,
        head: previous.clone(),
        expected_seq: (expected.head == Some(&previous.hash)).then_some(previous.seq),
    };
    compare(&report.head, expected.anchors)?;
    let mut statement = log
        .prepare(&format!("SELECT {COLUMNS} FROM audit WHERE seq > ?1 ORDER BY seq"))
        .map_err(sqlite)?;
    let mut rows =
        statement.query([if previous.seq > 0 { after } else { i64::MIN }]).map_err(sqlite)?;
    while let Some(row) = rows.next().map_err(sqlite)? {
        let row = StoredRow::read(row).map_err(sqlite)?;
        let seq = row.columns.seq;
        if let Some(what) = fault_of(&row, &report.head, log).map_err(sqlite)? {
            return Err(AuditFault::Row { seq, what });
        }
        if expected.head == Some(row.hash.as_str()) {
            report.expected_seq = Some(seq.unsigned_abs());
        }
        report.first.get_or_insert_with(|| row.columns.at.clone());
        report.last = Some(row.columns.at);
        report.rows = seq.unsigned_abs();
        report.head = AuditHead { seq: report.rows, hash: row.hash };
        compare(&report.head, expected.anchors)?;
    }
    let head: AuditHead = log
        .query_row("SELECT seq, hash FROM head", [], |row| {
            Ok(AuditHead { seq: row.get::<_, i64>(0)?.unsigned_abs(), hash: row.get(1)? })
        })
        .map_err(sqlite)?;
    if head.seq != report.rows {
        return Err(AuditFault::End { last: report.rows, head: head.seq });
    }
    if head.hash != report.head.hash {
        return Err(AuditFault::OtherEnd { seq: report.rows });
    }
    Ok(report)
}

/// Compares a row with the anchors that were taken of it.
fn compare(row: &AuditHead, anchors: &[AuditHead]) -> Result<(), AuditFault> {
    match anchors.iter().find(|anchor| anchor.seq == row.seq && anchor.hash != row.hash) {
        None => Ok(()),
        Some(anchor) => Err(AuditFault::AnchorDiffers {
            seq: row.seq,
            found: row.hash.clone(),
            expected: anchor.hash.clone(),
        }),
    }
}

fn fault_of(
    row: &StoredRow,
    previous: &AuditHead,
    log: &Connection,
) -> rusqlite::Result<Option<RowFault>> {
    let columns = &row.columns;
    let follows = previous.seq.cast_signed();
    if columns.seq != follows.saturating_add(1) {
        return Ok(Some(RowFault::CutOut { follows }));
    }
    let itself = columns.hash() == row.hash;
    if columns.previous_hash != previous.hash {
        let links_to = log
            .query_row("SELECT seq FROM audit WHERE hash = ?1", [&columns.previous_hash], |row| {
                row.get(0)
            })
            .optional()?;
        return Ok(Some(match links_to {
            Some(links_to) => RowFault::Moved { links_to },
            None if itself => RowFault::Unlinked,
            None => RowFault::Altered,
        }));
    }
    if columns.payload_canonical_hash != sha256_text(&row.payload) {
        return Ok(Some(RowFault::PayloadAltered));
    }
    Ok((!itself).then_some(RowFault::Altered))
}
