//! Small files of mode 0600 that are written and read as a whole.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::database::{COMPANIONS, sidecar_path};
use super::file::{private_metadata, refuse_others, replace};
use super::{StoreError, created};

pub(crate) use super::database::harden;

/// Reads a file of at max `max` bytes that only this user may touch. `None` when it never existed. A
/// file that was made before and is gone is refused, and so is one with a companion file in which
/// SQLite would look for changes.
pub(crate) fn read(path: &Path, max: u64) -> Result<Option<Vec<u8>>, StoreError> {
    if private_metadata(path)?.is_none() {
        created::refuse_vanished(path)?;
        return Ok(None);
    }
    for companion in COMPANIONS {
        if private_metadata(&sidecar_path(path, companion))?.is_some() {
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
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max {
        let detail = format!("it is longer than {max} bytes");
        return Err(StoreError::Corrupt { path: path.to_path_buf(), detail });
    }
    Ok(Some(bytes))
}

/// Puts a file in place of the one that is there; on disk when this returns.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    replace(path, bytes).map_err(|error| StoreError::of_io(path, &error))?;
    created::add(path)
}
