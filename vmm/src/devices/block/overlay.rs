//! One machine's copy-on-write view of a disk.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::DiskImage;
use crate::memory::merkle::Hash;
use crate::memory::{PAGE_BYTES, PrivateMapping, leaf_of};

/// The unit of copying, of the dirty set and of hashes.
pub const BLOCK_BYTES: usize = PAGE_BYTES;
/// Most damaged blocks that are remembered.
const MAX_REFUSED: usize = 64;

/// A private, writable view of a [`DiskImage`] that knows which blocks differ from it and what
/// they must read as.
pub struct Overlay {
    base: Arc<DiskImage>,
    mapping: PrivateMapping,
    /// Dirty blocks and the hash of what was last written to each, taken from the bytes that were
    /// written, not from where they went.
    records: BTreeMap<usize, Hash>,
    /// Where a block is put together before it is hashed and written.
    scratch: Box<[u8; BLOCK_BYTES]>,
    /// Blocks that did not read as they should, in the way of a request.
    refused: Vec<Damage>,
    /// What the last discard threw away.
    discarded: Vec<Range<usize>>,
}

/// A block that does not read as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// The block.
    pub block: usize,
    /// Hash of what it should read as.
    pub was: Hash,
    /// Hash of what it does read as.
    pub is: Hash,
}

/// Why the disk cannot be read or written there.
#[derive(Debug, Error)]
pub enum OverlayError {
    /// Backwards, or past the end.
    #[error("the range reaches past the end of the disk")]
    Range,
    /// A block is damaged. See [`Overlay::take_refused`].
    #[error("block {0} of the disk does not read as it should")]
    Damaged(usize),
    /// The base could not be read, or the source of a write.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Overlay {
    /// An overlay without dirty blocks.
    ///
    /// # Errors
    ///
    /// The host refuses to map the base.
    pub fn new(base: Arc<DiskImage>) -> io::Result<Self> {
        let mapping = PrivateMapping::of(base.memory())?;
        Ok(Self {
            base,
            mapping,
            records: BTreeMap::new(),
            scratch: Box::new([0; BLOCK_BYTES]),
            refused: Vec::new(),
            discarded: Vec::new(),
        })
    }

    /// The base.
    pub fn base(&self) -> &Arc<DiskImage> {
        &self.base
    }

    /// Size in bytes.
    pub fn length(&self) -> u64 {
        self.mapping.bytes().len() as u64
    }

    /// Number of blocks; the last one may be shorter.
    pub fn blocks(&self) -> usize {
        self.mapping.bytes().len().div_ceil(BLOCK_BYTES)
    }

    /// The bytes of `range`, whatever they are; `None` when it reaches past the end.
    pub fn read(&self, range: Range<u64>) -> Option<&[u8]> {
        self.mapping.bytes().get(indices(&range)?)
    }

    /// The bytes of `range`, for the guest: every block they lie in reads as it should.
    ///
    /// # Errors
    ///
    /// `range` reaches past the end, a block does not read as it should, which is remembered, or the base
    /// cannot be read.
    pub fn read_checked(&mut self, range: Range<u64>) -> Result<&[u8], OverlayError> {
        let indices = self.indices(&range)?;
        for block in blocks_of(&indices) {
            if let Some(damage) = self.damage(block)? {
                return Err(self.refuse(damage));
            }
        }
        self.mapping.bytes().get(indices).ok_or(OverlayError::Range)
    }

    /// Writes `bytes` from `offset` on.
    ///
    /// # Errors
    ///
    /// As [`Overlay::write_with`].
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), OverlayError> {
        let end = offset.checked_add(bytes.len() as u64).ok_or(OverlayError::Range)?;
        self.write_with(offset..end, |at, target| {
            match bytes.get(at..at + target.len()) {
                Some(source) => target.copy_from_slice(source),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            Ok(())
        })
    }

    /// Writes what `fill` puts into the pieces it is given, each with its distance from the start
    /// of `range`. Block by block: after an error, the blocks before it are written.
    ///
    /// A block is put together aside, so that its record is the hash of exactly what was written,
    /// other threads that can reach the memory that it comes from or goes to. Of a block that is written
    /// in part, the rest is checked first: a change behind the disk's back must not get a record.
    ///
    /// # Errors
    ///
    /// `range` reaches past the end, a block that is written in part does not read as it should, which is
    /// remembered, the base cannot be read, or `fill` failed.
    pub fn write_with(
        &mut self,
        range: Range<u64>,
        mut fill: impl FnMut(usize, &mut [u8]) -> io::Result<()>,
    ) -> Result<(), OverlayError> {
        let indices = self.indices(&range)?;
        for block in blocks_of(&indices) {
            let place = self.block_range(block);
            let part = indices.start.max(place.start)..indices.end.min(place.end);
            let expected = if part == place { None } else { Some(self.expected(block)?) };
            let whole = self.scratch.get_mut(..place.len()).ok_or(OverlayError::Range)?;
            if let Some(was) = expected {
                whole.copy_from_slice(
                    self.mapping.bytes().get(place.clone()).ok_or(OverlayError::Range)?,
                );
                let is = leaf_of(whole);
                if is != was {
                    return Err(self.refuse(Damage { block, was, is }));
                }
            }
            let target = whole
                .get_mut(part.start - place.start..part.end - place.start)
                .ok_or(OverlayError::Range)?;
            fill(part.start - indices.start, target)?;
            let record = leaf_of(whole);
            let there = self.mapping.bytes_mut().get_mut(place).ok_or(OverlayError::Range)?;
            self.records.insert(block, record);
            there.copy_from_slice(whole);
        }
        Ok(())
    }

    /// SHA-256 of all that the overlay shows, read through its mapping.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.mapping.bytes()).into()
    }

    /// Numbers of the blocks written since the overlay was made or discarded, ascending.
    pub fn dirty_blocks(&self) -> impl Iterator<Item = usize> + '_ {
        self.records.keys().copied()
    }

    /// True for a block that was written since the overlay was made or discarded.
    pub fn is_dirty(&self, block: usize) -> bool {
        self.records.contains_key(&block)
    }

    /// What the last discard threw away, ascending.
    pub fn discarded(&self) -> &[Range<usize>] {
        &self.discarded
    }

    /// Hash of what a block must read as: what was last written there, or the base.
    ///
    /// # Errors
    ///
    /// The base cannot be read.
    pub fn expected(&self, block: usize) -> io::Result<Hash> {
        match self.records.get(&block) {
            Some(record) => Ok(*record),
            None => self.base.memory().leaf(block),
        }
    }

    /// Reads a block and compares it with what it must read as.
    ///
    /// # Errors
    ///
    /// The base cannot be read.
    pub fn damage(&self, block: usize) -> io::Result<Option<Damage>> {
        let was = self.expected(block)?;
        let is = leaf_of(self.content(block));
        Ok((is != was).then_some(Damage { block, was, is }))
    }

    /// Content of a block, as the guest would read it.
    pub fn content(&self, block: usize) -> &[u8] {
        self.mapping.bytes().get(self.block_range(block)).unwrap_or_default()
    }

    /// The blocks that requests were refused for, which are forgotten with this call.
    pub fn take_refused(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.refused)
    }

    /// Unmaps blocks of which none is dirty, until they are read again. Must be sure that none of
    /// them is a private copy, or that a copy may go.
    pub(crate) fn forget_clean(&mut self, blocks: Range<usize>) -> io::Result<()> {
        if blocks.is_empty() || self.records.range(blocks.clone()).next().is_some() {
            return Ok(());
        }
        let bytes = self.block_range(blocks.start).start..self.block_range(blocks.end - 1).end;
        self.mapping.revert(bytes)
    }

    /// The mapping that the guest's reads come from.
    pub(crate) fn mapping(&self) -> &PrivateMapping {
        &self.mapping
    }

    /// The mapping, past every record.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn mapping_mut(&mut self) -> &mut PrivateMapping {
        &mut self.mapping
    }

    /// Makes what the disk holds now the base of this overlay, and returns that base. Fails when a
    /// block that was written does not read as it should.
    ///
    /// # Errors
    ///
    /// A block that was written does not read as it should, the base cannot be read, or the host has no
    /// memory for a new one.
    pub fn freeze(&mut self) -> io::Result<Arc<DiskImage>> {
        if !self.records.is_empty() {
            for block in self.records.keys() {
                if self.damage(*block)?.is_some() {
                    return Err(io::Error::other(OverlayError::Damaged(*block)));
                }
            }
            let base = DiskImage::from_bytes(self.mapping.bytes()).map_err(io::Error::other)?;
            *self = Self::new(Arc::new(base))?;
        }
        Ok(Arc::clone(&self.base))
    }

    /// Forgets every write and returns how many blocks they had touched. Costs one call per run of
    /// dirty blocks; clean blocks cost nothing.
    ///
    /// # Errors
    ///
    /// The host refuses to map the base again. All writes are still known.
    pub fn discard(&mut self) -> io::Result<usize> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for block in self.records.keys().copied() {
            match runs.last_mut() {
                Some(run) if run.end == block => run.end += 1,
                _ => runs.push(block..block + 1),
            }
        }
        for run in &runs {
            self.mapping.revert(run.start * BLOCK_BYTES..run.end * BLOCK_BYTES)?;
        }
        // Only now: after an error the next attempt has to know all of them.
        self.discarded = runs;
        let blocks = self.records.len();
        self.records.clear();
        Ok(blocks)
    }

    fn indices(&self, range: &Range<u64>) -> Result<Range<usize>, OverlayError> {
        indices(range)
            .filter(|indices| indices.end <= self.mapping.bytes().len())
            .ok_or(OverlayError::Range)
    }

    /// The bytes of a block; fewer, or none, at and past the end.
    fn block_range(&self, block: usize) -> Range<usize> {
        let length = self.mapping.bytes().len();
        let start = block.saturating_mul(BLOCK_BYTES).min(length);
        start..start.saturating_add(BLOCK_BYTES).min(length)
    }

    fn refuse(&mut self, damage: Damage) -> OverlayError {
        if self.refused.len() < MAX_REFUSED && !self.refused.contains(&damage) {
            self.refused.push(damage);
        }
        OverlayError::Damaged(damage.block)
    }
}

fn blocks_of(indices: &Range<usize>) -> Range<usize> {
    if indices.is_empty() {
        return 0..0;
    }
    indices.start / BLOCK_BYTES..indices.end.div_ceil(BLOCK_BYTES)
}

fn indices(range: &Range<u64>) -> Option<Range<usize>> {
    let start = usize::try_from(range.start).ok()?;
    let end = usize::try_from(range.end).ok()?;
    (start <= end).then_some(start..end)
}
