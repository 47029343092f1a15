//! What a store can fail with.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use rusqlite::ffi;
use thiserror::Error;

/// Why a store could not be opened or did not do what it was asked.
///
/// Whatever was asked for is to be taken as not done.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The file could not be opened or created.
    #[error("cannot open {}: {detail}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// The file was made before and is gone.
    #[error(
        "{} is gone, though it was made before; restore it. To start an empty one, stop the \
         agent for at least 7 minutes and remove the line \"{}\" from {}",
        path.display(), name, record.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// The name of the store in the record.
        name: String,
        /// The record of stores that were made.
        record: PathBuf,
    },
    /// Other users may use the file, or another user owns it, or it is no plain file.
    #[error("{} {detail}", path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        detail: String,
    },
    /// The file would not survive a restart of the machine.
    #[error(
        "{} is on {filesystem}, which forgets everything when the machine restarts; use a state \
         directory on a disk",
        path.display()
    )]
    Volatile {
        /// The file.
        path: PathBuf,
        /// The kind of file system.
        filesystem: &'static str,
    },
    /// The file is damaged.
    #[error(
        "{} is damaged: {detail}; stop the agent, move the file away and restore an undamaged \
         one. It is not replaced by itself, because what it knew would be lost",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The file belongs to another program, another store or another version.
    #[error("{} {detail}; move it away or use another state directory", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        detail: String,
    },
    /// The file or its file system cannot be written to.
    #[error("{} is read-only; make the file and its file system writable", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// There is no room for it.
    #[error("there is no room to write to {}; free some space on its disk", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Another process uses the file.
    #[error("{} is in use by another process; stop that one", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The thread of the store has ended.
    #[error("the store {} is closed; restart the agent", path.display())]
    Closed {
        /// The file.
        path: PathBuf,
    },
    /// More waits to be written than the queue holds.
    #[error("too much waits to be written to {}; its disk is too slow", path.display())]
    Overloaded {
        /// The file.
        path: PathBuf,
    },
    /// Entries that no caller waited for are lost.
    #[error(
        "{entries} entries for {} could not be written and are lost; the log itself says so. Look \
         for a full or failing disk",
        path.display()
    )]
    EntriesLost {
        /// The file.
        path: PathBuf,
        /// How many.
        entries: u64,
    },
    /// Reading or writing failed.
    #[error("reading or writing {} failed: {detail}; check its disk", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        detail: String,
    },
    /// SQLite failed in a way that says nothing about the disk.
    #[error("the store {} failed: {detail}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        detail: String,
    },
    /// The request itself cannot be met.
    #[error("{} does not take this: {detail}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why not.
        detail: String,
    },
}

impl StoreError {
    /// From an error of SQLite.
    pub(super) fn of_sqlite(path: &Path, error: &rusqlite::Error) -> Self {
        let path = path.to_path_buf();
        let detail = error.to_string();
        let Some(failure) = error.sqlite_error() else {
            return Self::Database { path, detail };
        };
        match (failure.code, failure.extended_code) {
            (ErrorCode::DiskFull, _) => Self::Full { path },
            (ErrorCode::ReadOnly, _) => Self::ReadOnly { path },
            (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => Self::Busy { path },
            (ErrorCode::CannotOpen | ErrorCode::PermissionDenied, _) => Self::Open { path, detail },
            (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _)
            | (
                _,
                ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_CORRUPTFS | ffi::SQLITE_IOERR_DATA,
            ) => Self::Corrupt { path, detail },
            (ErrorCode::SystemIoFailure, code) => {
                Self::Io { path, detail: format!("{detail} ({code})") }
            }
            _ => Self::Database { path, detail },
        }
    }

    /// From an error of the system.
    pub(crate) fn of_io(path: &Path, error: &io::Error) -> Self {
        let path = path.to_path_buf();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path },
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                Self::Open { path, detail: error.to_string() }
            }
            _ => Self::Io { path, detail: error.to_string() },
        }
    }
}
