//! Small files that are written and read as a whole.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::database::{COMPANIONS, beside};
use super::file::{private_metadata, refuse_others, replace};
use super::{StoreError, created};

pub(crate) use super::database::distrust;

/// What was read.
pub(crate) struct Sealed {
    /// All of the file.
    pub bytes: Vec<u8>,
}

/// Reads a file that only this user may touch; nothing when it never existed. One that was made
/// before and is gone is refused, and one beside which SQLite would look for changes as well.
pub(crate) fn read(path: &Path, most: u64) -> Result<Option<Sealed>, StoreError> {
    if private_metadata(path)?.is_none() {
        created::refuse_vanished(path)?;
        return Ok(None);
    }
    for companion in COMPANIONS {
        if private_metadata(&beside(path, companion))?.is_some() {
            let detail = format!("there is a {companion} beside it, which this agent never makes");
            return Err(StoreError::Corrupt { path: path.to_path_buf(), detail });
        }
    }
    let failed = |error| StoreError::of_io(path, &error);
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file =
        std::fs::OpenOptions::new().read(true).custom_flags(nofollow).open(path).map_err(failed)?;
    // Once more, of the very file that is read.
    refuse_others(path, &file.metadata().map_err(failed)?, 0o600)?;
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        let detail = format!("it is longer than {most} bytes");
        return Err(StoreError::Corrupt { path: path.to_path_buf(), detail });
    }
    Ok(Some(Sealed { bytes }))
}

/// Puts a file in place of the one that is there; on disk when this returns.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    replace(path, bytes).map_err(|error| StoreError::of_io(path, &error))?;
    created::add(path)
}
