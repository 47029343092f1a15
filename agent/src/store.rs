//! What the agent keeps on disk: its identity, spent nonces, the journal of commands, the audit log.
//!
//! Each store is one SQLite file of mode 0600 with one thread that writes to it. Whatever waits
//! for that thread goes into one transaction, so that many commands share the cost of one flush,
//! and no caller is told "done" before the flush. When a transaction fails, all of it is reported as
//! failed; the thread goes on and works again as soon as the disk does.
//!
//! A store that is damaged, belongs to something else or has vanished is refused and named. It is
//! never replaced silently: see [`StoreError`] for what a person has to decide.

mod audit;
mod created;
mod database;
mod directory;
mod error;
mod file;
pub mod identity;
mod journal;
mod nonces;
pub mod note;
pub(crate) mod private_file;
mod reserve;
mod writer;

pub use audit::{
    AuditEntry, AuditFault, AuditHead, AuditLog, AuditReport, AuditRow, Channel, Expected,
    HashedColumns, RowFault, rows_about, verify_audit, verify_audit_against,
};
pub use directory::{StateDir, StateDirError};
pub use error::StoreError;
pub(crate) use file::{directory_of, remove_durably, rename_durably, replace_durably};
pub use journal::{
    CommandState, Journal, JournalCounts, JournalEntry, JournalError, JournalRoom,
    MAX_RESULT_BYTES, NewCommand,
};
pub use nonces::{NonceError, NonceStore};

#[cfg(test)]
pub(crate) mod testing;
