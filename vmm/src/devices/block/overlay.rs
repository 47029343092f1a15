//! One machine's copy-on-write view of a disk.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::DiskImage;
use crate::memory::PrivateMapping;

/// The unit of copying and of the dirty bitmap.
pub const BLOCK_BYTES: usize = 4096;

/// A private, writable view of a [`DiskImage`] that knows which blocks differ from it.
pub struct Overlay {
    base: Arc<DiskImage>,
    mapping: PrivateMapping,
    /// One bit per block, set before the block is written.
    dirty: Vec<u64>,
}

impl Overlay {
    /// An overlay without dirty blocks.
    pub fn new(base: Arc<DiskImage>) -> io::Result<Self> {
        let mapping = PrivateMapping::of(base.memory())?;
        let blocks = mapping.bytes().len().div_ceil(BLOCK_BYTES);
        Ok(Self { base, mapping, dirty: vec![0; blocks.div_ceil(64)] })
    }

    /// The base.
    pub fn base(&self) -> &Arc<DiskImage> {
        &self.base
    }

    /// Size in bytes.
    pub fn length(&self) -> u64 {
        self.mapping.bytes().len() as u64
    }

    /// The bytes of `range`; `None` when it reaches past the end.
    pub fn read(&self, range: Range<u64>) -> Option<&[u8]> {
        self.mapping.bytes().get(indices(&range)?)
    }

    /// The bytes of `range` for writing, marked dirty; `None` when it reaches past the end.
    pub fn write(&mut self, range: Range<u64>) -> Option<&mut [u8]> {
        let indices = indices(&range)?;
        if indices.end > self.mapping.bytes().len() {
            return None;
        }
        if !indices.is_empty() {
            for block in indices.start / BLOCK_BYTES..=(indices.end - 1) / BLOCK_BYTES {
                if let Some(word) = self.dirty.get_mut(block / 64) {
                    *word |= 1 << (block % 64);
                }
            }
        }
        self.mapping.bytes_mut().get_mut(indices)
    }

    /// SHA-256 of all that the overlay shows, read through its mapping.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.mapping.bytes()).into()
    }

    /// Numbers of the blocks written since the overlay was made or discarded, ascending.
    pub fn dirty_blocks(&self) -> impl Iterator<Item = usize> + '_ {
        self.dirty.iter().enumerate().flat_map(|(index, word)| {
            let mut word = *word;
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros();
                word &= word.wrapping_sub(1);
                (bit < 64).then_some(index * 64 + bit as usize)
            })
        })
    }

    /// Makes what the disk holds now the base of this overlay, and returns that base.
    pub fn freeze(&mut self) -> io::Result<Arc<DiskImage>> {
        if self.dirty.iter().any(|word| *word != 0) {
            let base = DiskImage::from_bytes(self.mapping.bytes()).map_err(io::Error::other)?;
            *self = Self::new(Arc::new(base))?;
        }
        Ok(Arc::clone(&self.base))
    }

    /// Forgets every write and returns how many blocks they had touched. Costs one call per run of
    /// dirty blocks; clean blocks cost nothing.
    pub fn discard(&mut self) -> io::Result<usize> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for block in self.dirty_blocks() {
            match runs.last_mut() {
                Some(run) if run.end == block => run.end += 1,
                _ => runs.push(block..block + 1),
            }
        }
        let blocks = runs.iter().map(Range::len).sum();
        for run in runs {
            self.mapping.revert(run.start * BLOCK_BYTES..run.end * BLOCK_BYTES)?;
        }
        // Only now: after an error the next attempt has to know all of them.
        self.dirty.fill(0);
        Ok(blocks)
    }
}

fn indices(range: &Range<u64>) -> Option<Range<usize>> {
    let start = usize::try_from(range.start).ok()?;
    let end = usize::try_from(range.end).ok()?;
    (start <= end).then_some(start..end)
}
