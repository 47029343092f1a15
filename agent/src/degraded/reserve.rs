//! Room on the disk for the latch, taken beforehand: a full disk must not keep it open.
//!
//! The reserve is a file of the longest latch's size, on disk while the agent serves. Entering degraded
//! mode gives it the latch's name, which needs no new block. It is a latch then, whatever it contains.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::record::{IncidentRecord, MAX_RECORD_BYTES};
use crate::store::{StoreError, rename_durably, replace_durably};

/// Name of the reserve in the state directory.
const FILE: &str = "degraded.reserve";
/// What it is filled with. JSON may end in it, so a record that is written over its beginning can be read.
const FILLER: u8 = b' ';

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// Makes the reserve where it is missing, or is not what it should be. It is on disk afterwards.
pub(super) fn make(state_dir: &Path) -> Result<(), StoreError> {
    let path = path(state_dir);
    if is_whole(&path) {
        return Ok(());
    }
    replace_durably(&path, &vec![FILLER; usize::try_from(MAX_RECORD_BYTES).unwrap_or_default()])
}

/// Puts the latch on disk, with this content where that is possible. With `Err` there may be a latch all
/// the same, whose content is another one.
pub(super) fn latch(state_dir: &Path, content: &[u8]) -> Result<(), StoreError> {
    let latch = IncidentRecord::path(state_dir);
    let reserve = path(state_dir);
    // Only a plain file: anything else could not be replaced by the record.
    if is_absent(&latch) && fs::symlink_metadata(&reserve).is_ok_and(|found| found.is_file()) {
        // Without it, the record may still find its way.
        let _ = rename_durably(&reserve, &latch);
    }
    replace_durably(&latch, content).or_else(|error| overwrite(&latch, content).map_err(|_| error))
}

/// Writes into the blocks that a file has. A write that is cut short leaves a damaged latch, which is a
/// latch.
fn overwrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
    let length = usize::try_from(file.metadata()?.len().min(MAX_RECORD_BYTES)).unwrap_or_default();
    if content.len() > length {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut whole = content.to_vec();
    whole.resize(length, FILLER);
    file.write_all_at(&whole, 0)?;
    file.sync_all()
}

/// Whether it has its size, and blocks for all of it.
fn is_whole(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| {
        found.is_file()
            && found.len() == MAX_RECORD_BYTES
            && found.blocks().saturating_mul(512) >= MAX_RECORD_BYTES
    })
}

fn is_absent(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}
