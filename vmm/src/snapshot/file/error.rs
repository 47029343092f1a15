//! Why a snapshot could not be written or was refused.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::version::VERSION;
use crate::devices::block::DiskError;
use crate::kvm::KvmError;
use crate::memory::MemoryError;

/// Why a snapshot could not be written, or was refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The file could not be opened.
    #[error("cannot open snapshot {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file could not be written. What was at its place before is still there.
    #[error("cannot write snapshot {}: {source}; nothing at that place was changed", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Reading or writing failed.
    #[error("the snapshot cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// Not a regular file, so its length says nothing.
    #[error("a snapshot has to be a regular file")]
    NotAFile,
    /// The magic number is not there.
    #[error("this is no snapshot: its first bytes are not the magic number")]
    NotASnapshot,
    /// Another version of the format.
    #[error(
        "the snapshot has format version {snapshot}, this program reads version {VERSION}: make \
         the snapshot again"
    )]
    Version {
        /// The file's.
        snapshot: u32,
    },
    /// A section claims to be longer than it may be.
    #[error("snapshot section `{section}` claims {bytes} bytes, more than {limit}: refused")]
    TooLarge {
        /// The section.
        section: &'static str,
        /// What it claims.
        bytes: u64,
        /// What it may have.
        limit: u64,
    },
    /// The file ends too early.
    #[error("the snapshot ends in the middle of section `{section}`: make it again")]
    Truncated {
        /// The section.
        section: &'static str,
    },
    /// The content is not what was written.
    #[error("snapshot section `{section}` is damaged: {reason}; make the snapshot again")]
    Damaged {
        /// The section.
        section: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The snapshot is of something else than what is expected, or of another host.
    #[error(
        "the snapshot was made with another {what}: {snapshot}, here it is {here}; make a \
         snapshot for this one"
    )]
    Mismatch {
        /// What differs.
        what: String,
        /// What the snapshot was made with.
        snapshot: String,
        /// What is expected here.
        here: String,
    },
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Golden memory could not be made.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The golden disk could not be made or read.
    #[error(transparent)]
    Disk(#[from] DiskError),
}
