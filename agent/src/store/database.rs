//! One SQLite file: made whole, opened with suspicion.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::file::{
    create_private, directory_of, private_metadata, remove, rename_into_place, temp_path,
};
use super::{StoreError, created};

/// How long another process may hold the file before it counts as busy.
const PATIENCE: Duration = Duration::from_secs(2);

/// Smallest page, and so the smallest file that is not empty (SQLite file format 1.3.2). SQLite
/// itself takes a shorter file for a new one.
const SMALLEST: u64 = 512;

/// Suffixes of the files that SQLite keeps beside a database.
pub(super) const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// What a file has to be to be a certain store.
pub(super) struct Kind {
    /// For people.
    pub name: &'static str,
    /// Says in the file's header what it is (SQLite file format 1.3.17).
    pub application_id: i32,
    /// Version of the tables.
    pub version: i32,
    /// Makes the tables.
    pub schema: &'static str,
    /// Whether other processes may read the file while this one has it open. When not, a second
    /// process that opens it is refused.
    pub shared: bool,
    /// What is checked for damage when it is opened.
    pub check: DamageCheck,
}

/// How far a file is checked for damage. A row written into a damaged file may overwrite others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DamageCheck {
    /// The pages of the file, in one pass.
    Structure,
    /// The pages of the file, and its indexes against its rows.
    Whole,
}

/// Opens a store for writing and makes it when it never existed. Gives the real path as well.
pub(super) fn open(path: &Path, kind: &Kind) -> Result<(Connection, PathBuf), StoreError> {
    let path = real_path(path)?;
    match private_metadata(&path)? {
        None => {
            created::refuse_vanished(&path)?;
            refuse_orphans(&path)?;
            create(&path, kind)?;
        }
        Some(found) if found.len() < SMALLEST => {
            let detail = format!("it has only {} bytes", found.len());
            return Err(StoreError::Corrupt { path, detail });
        }
        Some(_) => {}
    }
    for companion in COMPANIONS {
        private_metadata(&sidecar_path(&path, companion))?;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let database = Connection::open_with_flags(&path, flags)
        .map_err(|error| StoreError::of_sqlite(&path, &error))?;
    prepare(&database, &path, kind)?;
    created::add(&path)?;
    Ok((database, path))
}

fn prepare(database: &Connection, path: &Path, kind: &Kind) -> Result<(), StoreError> {
    let sqlite = |error| StoreError::of_sqlite(path, &error);
    if database.is_readonly("main").map_err(sqlite)? {
        return Err(StoreError::ReadOnly { path: path.to_path_buf() });
    }
    harden(database).map_err(sqlite)?;
    if !kind.shared {
        // Before the first access, so that SQLite keeps the index of its log in this process.
        database.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(sqlite)?;
    }
    require_kind(database, path, kind)?;
    let mode: String = database
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(sqlite)?;
    if mode != "wal" {
        let detail = format!("its file system cannot keep a write-ahead log (mode {mode})");
        return Err(StoreError::Database { path: path.to_path_buf(), detail });
    }
    // Every commit is flushed; the writer decides when to move the log into the file.
    database.pragma_update(None, "synchronous", "FULL").map_err(sqlite)?;
    database.pragma_update(None, "wal_autocheckpoint", 0).map_err(sqlite)?;
    check(database, path, kind.check)
}

/// Refuses a damaged file.
pub(super) fn check(
    database: &Connection,
    path: &Path,
    how: DamageCheck,
) -> Result<(), StoreError> {
    let pragma = match how {
        DamageCheck::Structure => "PRAGMA quick_check(1)",
        DamageCheck::Whole => "PRAGMA integrity_check(1)",
    };
    let found: String = database
        .query_row(pragma, [], |row| row.get(0))
        .map_err(|error| StoreError::of_sqlite(path, &error))?;
    if found == "ok" {
        return Ok(());
    }
    let detail = found.lines().last().unwrap_or_default().to_owned();
    Err(StoreError::Corrupt { path: path.to_path_buf(), detail })
}

/// Sets what makes a file that an attacker may have written harmless to open.
pub(crate) fn harden(database: &Connection) -> rusqlite::Result<()> {
    database.busy_timeout(PATIENCE)?;
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    database.pragma_update(None, "cell_size_check", true)
}

/// Refuses a file that is not this kind of store.
pub(super) fn require_kind(
    database: &Connection,
    path: &Path,
    kind: &Kind,
) -> Result<(), StoreError> {
    let number = |pragma| {
        database
            .pragma_query_value(None, pragma, |row| row.get::<_, i32>(0))
            .map_err(|error| StoreError::of_sqlite(path, &error))
    };
    let (application_id, version) = (number("application_id")?, number("user_version")?);
    let detail = if application_id != kind.application_id {
        format!("is not the agent's {}", kind.name)
    } else if version != kind.version {
        let known = kind.version;
        format!("is a {} of format {version}; this agent knows format {known}", kind.name)
    } else {
        return Ok(());
    };
    Err(StoreError::Foreign { path: path.to_path_buf(), detail })
}

/// Refuses to make a store beside the log of one that was there.
fn refuse_orphans(path: &Path) -> Result<(), StoreError> {
    for companion in COMPANIONS {
        let orphan = sidecar_path(path, companion);
        if private_metadata(&orphan)?.is_some() {
            let detail = format!("it is gone, and {} is still here", orphan.display());
            return Err(StoreError::Corrupt { path: path.to_path_buf(), detail });
        }
    }
    Ok(())
}

/// Makes the file aside and lets it take its place when it is whole and on disk, so that a crash
/// never leaves half a store under the real name.
fn create(path: &Path, kind: &Kind) -> Result<(), StoreError> {
    let temporary = temp_path(path);
    let io = |error: io::Error| StoreError::of_io(path, &error);
    remove(&temporary).map_err(io)?;
    for companion in COMPANIONS {
        remove(&sidecar_path(&temporary, companion)).map_err(io)?;
    }
    drop(create_private(&temporary).map_err(io)?);
    write_schema(&temporary, kind).map_err(|error| StoreError::of_sqlite(path, &error))?;
    File::open(&temporary).and_then(|file| file.sync_all()).map_err(io)?;
    rename_into_place(&temporary, path).map_err(io)
}

fn write_schema(path: &Path, kind: &Kind) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(path, flags)?;
    let (application_id, version, schema) = (kind.application_id, kind.version, kind.schema);
    database.execute_batch(&format!(
        "PRAGMA journal_mode = WAL;
         BEGIN;
         PRAGMA application_id = {application_id};
         PRAGMA user_version = {version};
         {schema}
         COMMIT;"
    ))?;
    database.close().map_err(|(_, error)| error)
}

/// The path without links, so that SQLite can be told to follow none.
pub(super) fn real_path(path: &Path) -> Result<PathBuf, StoreError> {
    let directory = directory_of(path);
    let real = fs::canonicalize(directory).map_err(|error| StoreError::of_io(directory, &error))?;
    let Some(name) = path.file_name() else {
        let detail = "is not the name of a file".to_owned();
        return Err(StoreError::Permissions { path: path.to_path_buf(), detail });
    };
    Ok(real.join(name))
}

/// The path of a file that SQLite keeps beside a database.
pub(super) fn sidecar_path(path: &Path, companion: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(companion);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
