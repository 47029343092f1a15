//! Hashes of the blocks of sealed memory: what each of them must read as.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use rustix::fs::{SeekFrom, seek};

use super::PAGE_BYTES;
use super::merkle::{Hash, Tree, leaf};
use super::zero::is_zero;

/// Blocks that are hashed together when the first of them is asked for.
const CHUNK_BLOCKS: usize = 64;
const CHUNK_BYTES: usize = CHUNK_BLOCKS * PAGE_BYTES;

/// One hash for each 4096 bytes of a file that cannot change, computed when it is first asked
/// for and kept: 32 bytes a block, nothing for stretches of zeros. The last block may be shorter.
#[derive(Debug)]
pub struct BlockHashes {
    length: usize,
    chunks: Box<[OnceLock<Chunk>]>,
    root: OnceLock<Hash>,
}

#[derive(Debug)]
enum Chunk {
    Zeros,
    Hashes(Box<[Hash]>),
}

impl BlockHashes {
    /// For a file of `length` bytes.
    pub fn new(length: usize) -> Self {
        let chunks = length.div_ceil(CHUNK_BYTES);
        Self {
            length,
            chunks: std::iter::repeat_with(OnceLock::new).take(chunks).collect(),
            root: OnceLock::new(),
        }
    }

    /// Number of blocks.
    pub fn count(&self) -> usize {
        self.length.div_ceil(PAGE_BYTES)
    }

    /// Hash of one block of `file`.
    pub fn get(&self, file: &File, block: usize) -> io::Result<Hash> {
        Ok(match self.chunk(file, block / CHUNK_BLOCKS)? {
            Chunk::Zeros => zero_leaf(self.bytes_of(block)),
            Chunk::Hashes(hashes) => *hashes.get(block % CHUNK_BLOCKS).ok_or_else(outside)?,
        })
    }

    /// The blocks from `block` on that are known to be zeros together; `None` where `file` holds
    /// something nearby.
    pub fn zeros_from(&self, file: &File, block: usize) -> io::Result<Option<Range<usize>>> {
        let index = block / CHUNK_BLOCKS;
        let end = ((index + 1) * CHUNK_BLOCKS).min(self.count());
        Ok(matches!(self.chunk(file, index)?, Chunk::Zeros).then_some(block..end))
    }

    /// Root of the tree over all blocks of `file`. The first call reads all of it.
    pub fn root(&self, file: &File) -> io::Result<Hash> {
        if let Some(known) = self.root.get() {
            return Ok(*known);
        }
        let root = self.root_with(file, |_, leaf| leaf)?;
        Ok(*self.root.get_or_init(|| root))
    }

    /// Root of the tree in which `leaf` has had its say on every block and its hash.
    pub fn root_with(
        &self,
        file: &File,
        mut leaf: impl FnMut(usize, Hash) -> Hash,
    ) -> io::Result<Hash> {
        let mut tree = Tree::default();
        for block in 0..self.count() {
            tree.push(leaf(block, self.get(file, block)?));
        }
        Ok(tree.root())
    }

    fn chunk(&self, file: &File, index: usize) -> io::Result<&Chunk> {
        let slot = self.chunks.get(index).ok_or_else(outside)?;
        if let Some(known) = slot.get() {
            return Ok(known);
        }
        let start = index * CHUNK_BYTES;
        let length = CHUNK_BYTES.min(self.length - start);
        let chunk = if is_hole(file, start as u64, length as u64)? {
            Chunk::Zeros
        } else {
            let mut content = vec![0; length];
            file.read_exact_at(&mut content, start as u64)?;
            if is_zero(&content) {
                Chunk::Zeros
            } else {
                Chunk::Hashes(content.chunks(PAGE_BYTES).map(leaf_of).collect())
            }
        };
        Ok(slot.get_or_init(|| chunk))
    }

    fn bytes_of(&self, block: usize) -> usize {
        self.length.saturating_sub(block * PAGE_BYTES).min(PAGE_BYTES)
    }
}

/// Hash of a block with this content; that of a block of zeros is known.
pub fn leaf_of(content: &[u8]) -> Hash {
    if is_zero(content) { zero_leaf(content.len()) } else { leaf(content) }
}

fn zero_leaf(length: usize) -> Hash {
    static WHOLE: OnceLock<Hash> = OnceLock::new();
    if length == PAGE_BYTES {
        *WHOLE.get_or_init(|| leaf(&[0; PAGE_BYTES]))
    } else {
        leaf([0; PAGE_BYTES].get(..length).unwrap_or_default())
    }
}

/// Whether the file system knows that there is nothing in this range: it reads as zeros, and
/// reading it through a mapping would take memory.
pub fn is_hole(file: &File, start: u64, length: u64) -> io::Result<bool> {
    match seek(file, SeekFrom::Data(start)) {
        Ok(data) => Ok(data >= start + length),
        Err(rustix::io::Errno::NXIO) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

fn outside() -> io::Error {
    io::Error::other("a block outside the sealed memory")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::memory::SealedMemory;
    use crate::memory::merkle;

    /// Some zeros inside, a hole of several chunks, and an incomplete last block.
    fn sample() -> (Vec<u8>, SealedMemory) {
        let mut bytes = vec![0; 5 * CHUNK_BYTES + 512];
        bytes[PAGE_BYTES..3 * PAGE_BYTES].fill(7);
        bytes[4 * CHUNK_BYTES + 9] = 1;
        bytes[5 * CHUNK_BYTES] = 2;
        let memory = SealedMemory::create("test", bytes.len(), |file| {
            file.write_all_at(&bytes[..3 * PAGE_BYTES], 0)?;
            file.write_all_at(&bytes[4 * CHUNK_BYTES..], 4 * CHUNK_BYTES as u64)
        })
        .unwrap();
        (bytes, memory)
    }

    #[test]
    fn leaves_and_root_are_those_of_the_content() {
        let (bytes, memory) = sample();
        assert!(is_hole(memory.file(), CHUNK_BYTES as u64, CHUNK_BYTES as u64).unwrap());
        let mut tree = Tree::default();
        for (block, content) in bytes.chunks(PAGE_BYTES).enumerate() {
            assert_eq!(memory.leaf(block).unwrap(), merkle::leaf(content), "{block}");
            tree.push(merkle::leaf(content));
        }
        assert_eq!(memory.blocks(), 321);
        assert_eq!(memory.root().unwrap(), tree.root());
        assert!(memory.leaf(321).is_err());
        assert!(memory.leaf(usize::MAX / PAGE_BYTES).is_err());
    }

    #[test]
    fn any_changed_byte_changes_the_root() {
        let (bytes, memory) = sample();
        for at in [0, PAGE_BYTES, 3 * CHUNK_BYTES, bytes.len() - 1] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            let other =
                SealedMemory::create("test", bytes.len(), |mut file| file.write_all(&bytes));
            assert_ne!(other.unwrap().root().unwrap(), memory.root().unwrap(), "{at}");
        }
    }
}
