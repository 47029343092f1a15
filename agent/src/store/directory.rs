//! The directory with everything an agent keeps, for one agent at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::StoreError;
use super::created::{self, RECORD};
use super::file::{private_metadata, refuse_others, replace, sync_directory_of};

const LOCK: &str = "lock";
const IDENTITY: &str = "identity.json";
const NONCES: &str = "nonces.db";
const JOURNAL: &str = "journal.db";
const AUDIT: &str = "audit.db";

/// Files that show that a directory has been in use.
const SIGNS_OF_USE: [&str; 4] = [IDENTITY, NONCES, JOURNAL, AUDIT];

/// Mode of the directory and of those in it.
const PRIVATE: u32 = 0o700;

/// Why a state directory was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StateDirError {
    /// Another agent has it.
    #[error(
        "the state directory {} is used by another agent, {}; stop that one or use another \
         directory",
        path.display(), Process(*pid)
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Process of the other agent, when it could be told.
        pid: Option<u32>,
    },
    /// The record of stores is gone, so a missing store cannot be noticed.
    #[error(
        "{} is gone, though {} is in use; restore it from a backup, or write one with a line \
         for each of nonces.db, journal.db, audit.db and baselines.db that is there",
        record.display(), path.display()
    )]
    NoRecord {
        /// The directory.
        path: PathBuf,
        /// The record.
        record: PathBuf,
    },
    /// The directory or a file in it cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

struct Process(Option<u32>);

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("whose process is not known"),
        }
    }
}

/// A state directory this process holds. The lock ends with this value, or with the process.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Where the state is unless settings say otherwise.
    pub const DEFAULT: &str = "/var/lib/brainstorm-agent";

    /// Makes the directory with mode 0700 when it is not there, and takes it for this process.
    /// Refuses one that others may use or that another agent holds.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        make_private(path)?;
        let path = fs::canonicalize(path).map_err(|error| StoreError::of_io(path, &error))?;
        let lock = take_lock(&path)?;
        let record = path.join(RECORD);
        if private_metadata(&record)?.is_none() {
            if SIGNS_OF_USE.iter().any(|name| path.join(name).symlink_metadata().is_ok()) {
                return Err(StateDirError::NoRecord { path, record });
            }
            created::start(&path)?;
        }
        Ok(Self { path, _lock: lock })
    }

    /// The directory itself, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who this endpoint is, with its private key.
    pub fn identity(&self) -> PathBuf {
        Self::identity_in(&self.path)
    }

    /// The keys whose signatures on commands count.
    pub fn keys(&self) -> PathBuf {
        self.path.join("keys.toml")
    }

    /// Puts another file of keys in place of the one that is there; on disk when this returns.
    pub fn write_keys(&self, text: &str) -> Result<(), StoreError> {
        let path = self.keys();
        replace(&path, text.as_bytes()).map_err(|error| StoreError::of_io(&path, &error))
    }

    /// Spent nonces.
    pub fn nonces(&self) -> PathBuf {
        self.path.join(NONCES)
    }

    /// The journal of commands.
    pub fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// The audit log.
    pub fn audit(&self) -> PathBuf {
        Self::audit_in(&self.path)
    }

    /// The audit log of a state directory that another process may hold.
    pub fn audit_in(directory: &Path) -> PathBuf {
        directory.join(AUDIT)
    }

    /// Full outputs of tools; made with mode 0700 when it is not there.
    pub fn evidence(&self) -> Result<PathBuf, StoreError> {
        let path = Self::evidence_in(&self.path);
        make_private(&path)?;
        Ok(path)
    }

    /// Evidence in a state directory that another process may hold.
    pub fn evidence_in(directory: &Path) -> PathBuf {
        directory.join("evidence")
    }

    /// The identity in a state directory that another process may hold.
    pub fn identity_in(directory: &Path) -> PathBuf {
        directory.join(IDENTITY)
    }

    /// The control socket of the running agent.
    pub fn control_socket(&self) -> PathBuf {
        Self::control_socket_in(&self.path)
    }

    /// The control socket in a state directory that another process may hold.
    pub fn control_socket_in(directory: &Path) -> PathBuf {
        directory.join("control.sock")
    }

    /// The file that, while it exists, stops the agent from taking commands.
    pub fn kill_switch(&self) -> PathBuf {
        self.path.join("KILL")
    }
}

/// Makes a directory of mode 0700, or checks one that is there.
fn make_private(path: &Path) -> Result<(), StoreError> {
    let failed = |error: io::Error| StoreError::of_io(path, &error);
    match DirBuilder::new().mode(PRIVATE).create(path) {
        Ok(()) => {
            // Whatever the umask took away.
            fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE)).map_err(failed)?;
            sync_directory_of(path).map_err(failed)?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let found = fs::metadata(path).map_err(failed)?;
    if !found.is_dir() {
        let detail = "is not a directory; move it away".to_owned();
        return Err(StoreError::Permissions { path: path.to_path_buf(), detail });
    }
    refuse_others(path, &found, PRIVATE)
}

fn take_lock(directory: &Path) -> Result<File, StateDirError> {
    let path = directory.join(LOCK);
    let failed = |error: io::Error| StoreError::of_io(&path, &error);
    private_metadata(&path)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(StateDirError::InUse { path: directory.to_path_buf(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error).into()),
    }
    file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
    file.set_len(0).map_err(failed)?;
    write!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests;
