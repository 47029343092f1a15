//! Is this file a file system? Looked at before a guest fails over it in less clear words.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use super::error::{Artifact, ImageError};

/// Reaches over every superblock looked at.
const HEAD_BYTES: u64 = 4096;
/// ext4: superblock at 1024 (kernel documentation, "The Super Block").
const EXT4_SUPERBLOCK: usize = 1024;
const EXT4_MAGIC: u64 = 0xef53;
const EXT4_64BIT: u64 = 0x80;
/// squashfs: superblock at 0.
const SQUASHFS_MAGIC: u64 = 0x7371_7368;
/// EROFS: superblock at 1024.
const EROFS_SUPERBLOCK: usize = 1024;
const EROFS_MAGIC: u64 = 0xe0f5_e1e2;
/// Larger blocks than any of these file systems has; keeps shifts in range.
const MAX_BLOCK_BITS: u64 = 20;

/// Checks that the file is a whole file system without a partition table in front of it.
pub fn recognise(path: &Path) -> Result<(), ImageError> {
    let artifact = Artifact::Rootfs;
    let read = |source| ImageError::read(artifact, path, source);
    // Looked at first: opening a pipe would wait for a writer.
    if !fs::metadata(path).map_err(read)?.is_file() {
        return Err(ImageError::NotAFilesystem { path: path.to_owned() });
    }
    let file = File::open(path).map_err(read)?;
    let found = file.metadata().map_err(read)?.len();
    let mut head = Vec::new();
    file.take(HEAD_BYTES).read_to_end(&mut head).map_err(read)?;
    if head.is_empty() {
        return Err(ImageError::Empty { artifact, path: path.to_owned() });
    }
    match bytes_used(&head) {
        None => Err(ImageError::NotAFilesystem { path: path.to_owned() }),
        Some(needed) if needed > found => {
            Err(ImageError::Truncated { artifact, path: path.to_owned(), needed, found })
        }
        Some(_) => Ok(()),
    }
}

/// Size of the file system by its own inventory; `None` when there is none.
fn bytes_used(head: &[u8]) -> Option<u64> {
    if field(head, EXT4_SUPERBLOCK + 0x38, 2) == Some(EXT4_MAGIC) {
        let at = |offset, width| field(head, EXT4_SUPERBLOCK + offset, width);
        let high = if at(0x60, 4)? & EXT4_64BIT == 0 { 0 } else { at(0x150, 4)? };
        let blocks = high << 32 | at(0x4, 4)?;
        blocks.checked_mul(block_size(at(0x18, 4)?.checked_add(10)?)?)
    } else if field(head, 0, 4) == Some(SQUASHFS_MAGIC) {
        field(head, 40, 8)
    } else if field(head, EROFS_SUPERBLOCK, 4) == Some(EROFS_MAGIC) {
        let block = block_size(field(head, EROFS_SUPERBLOCK + 12, 1)?)?;
        field(head, EROFS_SUPERBLOCK + 36, 4)?.checked_mul(block)
    } else {
        None
    }
}

fn block_size(bits: u64) -> Option<u64> {
    (bits <= MAX_BLOCK_BITS).then(|| 1 << bits)
}

/// A little-endian number of `width` bytes.
fn field(head: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = head.get(at..at.checked_add(width)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}
