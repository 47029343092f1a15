//! Memory that cannot change any more.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::block_hashes::is_hole;
use super::merkle::Hash;
use super::{BlockHashes, PAGE_BYTES};

/// A memfd sealed against writing, growing and shrinking: the kernel refuses changes from
/// every process, this one included. Private mappings of it share its pages until they write.
#[derive(Debug)]
pub struct SealedMemory {
    file: File,
    length: usize,
    hashes: BlockHashes,
}

const SEALS: SealFlags =
    SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);

impl SealedMemory {
    /// Creates `length` zero bytes, lets `fill` change them, and seals what came of it. `fill`
    /// must not leave a writable mapping behind.
    pub fn create<E: From<io::Error>>(
        name: &str,
        length: usize,
        fill: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<Self, E> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory: OwnedFd = memfd_create(name, flags).map_err(io::Error::from)?;
        ftruncate(&memory, length as u64).map_err(io::Error::from)?;
        let memory = File::from(memory);
        fill(&memory)?;
        fcntl_add_seals(&memory, SEALS).map_err(io::Error::from)?;
        Ok(Self { file: memory, length, hashes: BlockHashes::new(length) })
    }

    /// Size in bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The descriptor.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Number of blocks of 4096 bytes; the last one may be shorter.
    pub fn blocks(&self) -> usize {
        self.hashes.count()
    }

    /// Hash of one block, as [`super::merkle::leaf`] makes it; kept once computed.
    pub fn leaf(&self, block: usize) -> io::Result<Hash> {
        self.hashes.get(&self.file, block)
    }

    /// The blocks from `block` on that are known to be zeros together; `None` where there is
    /// something nearby.
    pub fn zeros_from(&self, block: usize) -> io::Result<Option<Range<usize>>> {
        self.hashes.zeros_from(&self.file, block)
    }

    /// True when the file system knows that these blocks hold nothing: they read as zeros, and
    /// reading them through a mapping would take memory.
    pub fn is_hole(&self, blocks: &Range<usize>) -> io::Result<bool> {
        let byte = |block: usize| (block * PAGE_BYTES).min(self.length) as u64;
        is_hole(&self.file, byte(blocks.start), byte(blocks.end) - byte(blocks.start))
    }

    /// Root of the Merkle tree over all blocks. The first call reads all of them.
    pub fn root(&self) -> io::Result<Hash> {
        self.hashes.root(&self.file)
    }

    /// Root of the tree in which `leaf` has had its say on every block and its hash.
    pub fn root_with(&self, leaf: impl FnMut(usize, Hash) -> Hash) -> io::Result<Hash> {
        self.hashes.root_with(&self.file, leaf)
    }

    /// True while every seal is in place, as the kernel says.
    #[cfg(test)]
    pub fn is_sealed(&self) -> io::Result<bool> {
        Ok(rustix::fs::fcntl_get_seals(&self.file)?.contains(SEALS))
    }

    /// Replaces `length` bytes of an existing mapping at `target` by a private, writable mapping
    /// of this memory from byte `offset` on, which must be page aligned.
    ///
    /// # Safety
    ///
    /// `target..target + length` must lie in a mapping that the caller owns, be page aligned, and
    /// hold nothing that a Rust reference points to. The mapping's owner unmaps it as before.
    pub unsafe fn map_over(&self, target: *mut u8, offset: usize, length: usize) -> io::Result<()> {
        let end = offset.checked_add(length);
        if end.is_none_or(|end| end > self.length.next_multiple_of(PAGE_BYTES)) {
            return Err(io::Error::other("the mapping would reach past the sealed memory"));
        }
        // SAFETY: the caller vouches for the range; MAP_FIXED replaces exactly that.
        let mapped = unsafe {
            libc::mmap(
                target.cast(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                self.file.as_raw_fd(),
                offset.cast_signed() as libc::off_t,
            )
        };
        if ptr::eq(mapped, libc::MAP_FAILED) { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn sealed_memory_cannot_be_changed() {
        let memory =
            SealedMemory::create("test", 4096, |mut file| file.write_all(b"golden")).unwrap();
        assert!(memory.is_sealed().unwrap());
        assert!(memory.file().write_at(b"x", 0).is_err());
        assert!(memory.file().set_len(0).is_err());
        assert!(memory.file().set_len(8192).is_err());
        let mut found = [0; 6];
        memory.file().read_exact_at(&mut found, 0).unwrap();
        assert_eq!(&found, b"golden");
    }

    #[test]
    fn writes_to_a_private_mapping_stay_private() {
        let memory =
            SealedMemory::create("test", 4096, |mut file| file.write_all(b"golden")).unwrap();
        let ram = crate::memory::allocate(64, |bytes| vec![(0, bytes)]).unwrap();
        let target =
            vm_memory::GuestMemoryBackend::get_host_address(&ram, vm_memory::GuestAddress(0x1000))
                .unwrap();
        // SAFETY: the page belongs to `ram` and nothing refers to it.
        unsafe { memory.map_over(target, 0, 4096) }.unwrap();
        let mut found = [0; 6];
        vm_memory::Bytes::read_slice(&ram, &mut found, vm_memory::GuestAddress(0x1000)).unwrap();
        assert_eq!(&found, b"golden");
        vm_memory::Bytes::write_slice(&ram, b"dirty!", vm_memory::GuestAddress(0x1000)).unwrap();
        memory.file().read_exact_at(&mut found, 0).unwrap();
        assert_eq!(&found, b"golden");
        // SAFETY: as above.
        assert!(unsafe { memory.map_over(target, 0, 8192) }.is_err());
    }
}
