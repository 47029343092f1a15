//! Space on disk that is kept free for what has to be written.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, fallocate};

use super::StoreError;
use super::file::{create_private, private_metadata};

/// A file whose only purpose is its size: cut short, it makes room on a full disk.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    file: File,
    /// Bytes kept for one [`JournalRoom`].
    unit: u64,
    held: Mutex<KeptSpace>,
}

#[derive(Debug)]
struct KeptSpace {
    /// Rooms that keep their space.
    rooms: u64,
    /// Size of the file.
    bytes: u64,
}

/// Space for one thing that has to be written. It is kept until this is dropped.
#[derive(Debug)]
pub struct JournalRoom {
    reserve: Arc<Reserve>,
    is_kept: bool,
}

impl Reserve {
    /// Opens the file, or makes it. What an earlier process kept stays until it is needed.
    pub fn open(path: &Path, unit: u64) -> Result<Arc<Self>, StoreError> {
        let failed = |error| StoreError::of_io(path, &error);
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let (file, bytes) = match private_metadata(path)? {
            Some(found) => {
                let mut options = OpenOptions::new();
                let file = options.write(true).custom_flags(nofollow).open(path).map_err(failed)?;
                (file, found.len())
            }
            None => (create_private(path).map_err(failed)?, 0),
        };
        let held = Mutex::new(KeptSpace { rooms: 0, bytes });
        Ok(Arc::new(Self { path: path.to_path_buf(), file, unit, held }))
    }

    /// Keeps space for one more, if the file is long enough for it.
    pub fn take_kept(self: &Arc<Self>) -> Option<JournalRoom> {
        let mut held = self.held();
        let rooms = held.rooms.checked_add(1)?;
        if rooms.checked_mul(self.unit)? > held.bytes {
            return None;
        }
        held.rooms = rooms;
        Some(JournalRoom { reserve: Arc::clone(self), is_kept: true })
    }

    /// Keeps space for one more. May wait for the disk.
    pub fn take(self: &Arc<Self>) -> Result<JournalRoom, StoreError> {
        let mut held = self.held();
        let rooms = held.rooms.saturating_add(1);
        let bytes = rooms.saturating_mul(self.unit);
        if bytes > held.bytes {
            fallocate(&self.file, FallocateFlags::empty(), 0, bytes)
                .map_err(|error| StoreError::of_io(&self.path, &error.into()))?;
            held.bytes = bytes;
        }
        held.rooms = rooms;
        Ok(JournalRoom { reserve: Arc::clone(self), is_kept: true })
    }

    /// Gives everything back to the disk.
    pub fn release_all(&self) {
        let mut held = self.held();
        held.rooms = 0;
        self.shorten(&mut held, 0);
    }

    fn shorten(&self, held: &mut KeptSpace, bytes: u64) {
        match self.file.set_len(bytes) {
            Ok(()) => held.bytes = bytes,
            Err(error) => {
                tracing::warn!(file = %self.path.display(), %error, "no space can be released");
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, KeptSpace> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JournalRoom {
    /// Gives the space back to the disk, so that what it was kept for can be written there. `false` when
    /// that was done before.
    pub fn release(&mut self) -> bool {
        if !std::mem::take(&mut self.is_kept) {
            return false;
        }
        let mut held = self.reserve.held();
        held.rooms = held.rooms.saturating_sub(1);
        let bytes = held.bytes.saturating_sub(self.reserve.unit);
        self.reserve.shorten(&mut held, bytes);
        true
    }
}

impl Drop for JournalRoom {
    fn drop(&mut self) {
        if self.is_kept {
            let mut held = self.reserve.held();
            held.rooms = held.rooms.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::store::testing::{mode, on_disk};

    /// Bytes that a file takes on its disk.
    fn taken(path: &Path) -> u64 {
        std::fs::metadata(path).unwrap().blocks() * 512
    }

    #[test]
    fn space_is_taken_before_it_is_promised_and_given_back_when_it_is_needed() {
        let directory = on_disk();
        let path = directory.path().join("reserve");
        let reserve = Reserve::open(&path, 1 << 20).unwrap();
        assert!(reserve.take_kept().is_none());
        let first = reserve.take().unwrap();
        let mut second = reserve.take().unwrap();
        assert_eq!(mode(&path), 0o600);
        assert!(taken(&path) >= 2 << 20, "{}", taken(&path));
        assert!(second.release());
        assert!(!second.release(), "once");
        assert!((1 << 20..2 << 20).contains(&taken(&path)), "{}", taken(&path));
        // What is no longer needed is there for the next.
        drop((first, second));
        let again = reserve.take_kept();
        assert!(again.is_some());
        assert!(reserve.take_kept().is_none());
        drop((again, reserve));

        let next_process = Reserve::open(&path, 1 << 20).unwrap();
        assert!(next_process.take_kept().is_some());
        next_process.release_all();
        assert_eq!(taken(&path), 0);
    }

    #[test]
    fn what_the_disk_does_not_have_is_not_promised() {
        let directory = on_disk();
        let reserve = Reserve::open(&directory.path().join("reserve"), 1 << 60).unwrap();
        assert!(reserve.take().is_err());
        assert_eq!(reserve.held().rooms, 0);
    }
}
