//! The immutable base of a disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::memory::{PAGE_BYTES, SealedMemory, is_zero};

/// The unit of a virtio block device's addresses (section 5.2.4).
pub const SECTOR_BYTES: u64 = 512;
/// Larger disks would no longer fit the memory of the endpoints this is made for.
const MAX_BYTES: u64 = 4 << 30;
const COPY_BYTES: usize = 256 << 10;

/// Why a disk image was refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The file could not be read.
    #[error("cannot read disk image {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Not a regular file.
    #[error("disk image {} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// The size cannot be that of a disk.
    #[error("a disk image of {0} bytes; it must be a multiple of 512, not empty and at most 4 GiB")]
    Size(u64),
    /// The host could not hold the image.
    #[error("cannot hold the disk image in memory: {0}")]
    Memory(#[from] io::Error),
}

/// A disk's base content, sealed: what was hashed is what every machine reads.
#[derive(Debug)]
pub struct DiskImage {
    memory: SealedMemory,
    sha256: OnceLock<[u8; 32]>,
}

impl DiskImage {
    /// Copies the file `path` into sealed memory. The format is never guessed: the bytes are the
    /// disk.
    ///
    /// # Errors
    ///
    /// The file cannot be opened or read, is not a regular file, or has a size that no disk has; or the
    /// host has no memory for it.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let read = |source| DiskError::Read { path: path.to_owned(), source };
        // Without waiting: opening a pipe would wait for a writer.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        if !metadata.is_file() {
            return Err(DiskError::NotAFile(path.to_owned()));
        }
        Self::seal(metadata.len(), |target| copy(&file, target, metadata.len()).map_err(read))
    }

    /// Copies `bytes` into sealed memory.
    ///
    /// # Errors
    ///
    /// The number of bytes is 0, no multiple of 512 or above 4 GiB, or the host has no memory for them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DiskError> {
        Self::seal(bytes.len() as u64, |target| {
            // Runs of zeros take no room there.
            for (index, chunk) in bytes.chunks(PAGE_BYTES).enumerate() {
                if !is_zero(chunk) {
                    target.write_all_at(chunk, (index * PAGE_BYTES) as u64)?;
                }
            }
            Ok::<_, DiskError>(())
        })
    }

    /// Lets `fill` write the content of a disk of `length` zero bytes, and seals it.
    pub(crate) fn seal<E: From<io::Error> + From<DiskError>>(
        length: u64,
        fill: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<Self, E> {
        if length == 0 || !length.is_multiple_of(SECTOR_BYTES) || length > MAX_BYTES {
            return Err(DiskError::Size(length).into());
        }
        let memory = SealedMemory::create("disk", length as usize, fill)?;
        Ok(Self { memory, sha256: OnceLock::new() })
    }

    /// Size in bytes.
    pub fn length(&self) -> u64 {
        self.memory.length() as u64
    }

    /// SHA-256 of the content, computed once.
    ///
    /// # Errors
    ///
    /// The sealed memory cannot be read.
    pub fn sha256(&self) -> Result<[u8; 32], DiskError> {
        if let Some(known) = self.sha256.get() {
            return Ok(*known);
        }
        let mut hash = Sha256::new();
        let mut buffer = vec![0; COPY_BYTES];
        let mut at = 0;
        loop {
            match self.memory.file().read_at(&mut buffer, at)? {
                0 => break,
                count => {
                    hash.update(buffer.get(..count).unwrap_or_default());
                    at += count as u64;
                }
            }
        }
        Ok(*self.sha256.get_or_init(|| hash.finalize().into()))
    }

    /// Root of the Merkle tree over blocks of 4096 bytes, of which the last may be shorter: SHA-256
    /// in the form of RFC 6962 2.1. Computed once.
    ///
    /// # Errors
    ///
    /// The sealed memory cannot be read.
    pub fn root(&self) -> Result<[u8; 32], DiskError> {
        Ok(self.memory.root()?)
    }

    /// The content.
    ///
    /// # Errors
    ///
    /// The sealed memory cannot be read.
    pub fn read_all(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.memory.length()];
        self.memory.file().read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// The descriptor behind it.
    pub(crate) fn memory(&self) -> &SealedMemory {
        &self.memory
    }
}

/// Copies exactly `length` bytes: a file that shrinks meanwhile is an error, one that grows is cut. Holes
/// and pages of zeros take no room in `target`.
fn copy(source: &File, target: &File, length: u64) -> io::Result<()> {
    if source.metadata()?.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    while let Some(data) = next_data(source, at, length)? {
        at = data.start;
        while at < data.end {
            let count = (data.end - at).min(COPY_BYTES as u64) as usize;
            let piece = buffer.get_mut(..count).ok_or(io::ErrorKind::InvalidInput)?;
            source.read_exact_at(piece, at)?;
            for page in piece.chunks(PAGE_BYTES) {
                if !is_zero(page) {
                    target.write_all_at(page, at)?;
                }
                at += page.len() as u64;
            }
        }
    }
    Ok(())
}

/// The next part of the first `length` bytes of a file that is no hole, from `at` on. File systems that
/// know no holes say that all of it is data.
fn next_data(file: &File, at: u64, length: u64) -> io::Result<Option<Range<u64>>> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => length,
        Err(Errno::INVAL) => at,
        Err(error) => return Err(error.into()),
    };
    if start >= length {
        return Ok(None);
    }
    // A hole that begins where the data does cannot be; the file has changed, and is read as it is.
    let end = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(length);
    Ok(Some(start..if end > start { end.min(length) } else { length }))
}
