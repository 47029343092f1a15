//! The record of stores that were made in a state directory: a text file, one name a line.
//!
//! A store that is in the record and not on disk has vanished, and with it the knowledge of what
//! ran already. It is refused until a person takes its line out of the record.
//! A directory without a record is not a state directory; nothing is recorded there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::StoreError;
use super::file::{directory_of, private_metadata, replace};

/// Name of the record in a state directory.
pub(super) const RECORD: &str = "stores";

const HEADER: &str = "# Stores that were made here. One that is listed and missing is refused.\n";

/// Stores are opened from several threads of the process that owns the directory.
static CHANGING: Mutex<()> = Mutex::new(());

/// Starts the record of a new state directory.
pub(super) fn start(directory: &Path) -> Result<(), StoreError> {
    let record = directory.join(RECORD);
    replace(&record, HEADER.as_bytes()).map_err(|error| StoreError::of_io(&record, &error))
}

/// Refuses to go on when a store that was made before is missing.
pub(super) fn refuse_vanished(store: &Path) -> Result<(), StoreError> {
    let (record, name) = of(store);
    match read(&record)? {
        Some(text) if lists(&text, &name) => {
            Err(StoreError::Missing { path: store.to_path_buf(), name, record })
        }
        _ => Ok(()),
    }
}

/// Adds a store that exists to the record.
pub(super) fn add(store: &Path) -> Result<(), StoreError> {
    let _changing = CHANGING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (record, name) = of(store);
    match read(&record)? {
        Some(text) if !lists(&text, &name) => {
            let ended = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            replace(&record, format!("{text}{ended}{name}\n").as_bytes())
                .map_err(|error| StoreError::of_io(&record, &error))
        }
        _ => Ok(()),
    }
}

fn of(store: &Path) -> (PathBuf, String) {
    let name = store.file_name().unwrap_or_default().to_string_lossy().into_owned();
    (directory_of(store).join(RECORD), name)
}

fn read(record: &Path) -> Result<Option<String>, StoreError> {
    if private_metadata(record)?.is_none() {
        return Ok(None);
    }
    fs::read_to_string(record).map(Some).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => {
            StoreError::Corrupt { path: record.to_path_buf(), detail: "it is not text".to_owned() }
        }
        _ => StoreError::of_io(record, &error),
    })
}

fn lists(text: &str, name: &str) -> bool {
    text.lines().any(|line| line.trim() == name)
}
