//! A private, writable view of sealed memory.

use std::ops::Range;
use std::os::fd::AsRawFd;
use std::{io, ptr, slice};

use super::{PAGE_BYTES, SealedMemory};
use crate::kernel_call;

/// A copy-on-write mapping: reads see the sealed memory until this mapping writes, and the owner
/// of the sealed memory never sees the writes.
#[derive(Debug)]
pub struct PrivateMapping {
    address: *mut u8,
    length: usize,
}

// SAFETY: the mapping belongs to this value alone, like the allocation of a `Vec<u8>`.
unsafe impl Send for PrivateMapping {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for PrivateMapping {}

impl PrivateMapping {
    /// Maps all of `memory`.
    pub fn of(memory: &SealedMemory) -> io::Result<Self> {
        let length = memory.length();
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_NORESERVE,
                memory.file().as_raw_fd(),
                0,
            )
        };
        if ptr::eq(address, libc::MAP_FAILED) {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { address: address.cast(), length })
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped and readable for as long as `self` lives, every byte is
        // initialised, and only `bytes_mut`, which borrows exclusively, writes to it: the file
        // behind it is sealed.
        unsafe { slice::from_raw_parts(self.address, self.length) }
    }

    /// The content, for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the mapping is writable and `self` is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.address, self.length) }
    }

    /// Drops this mapping's own copies of the pages that `range` touches: they read as sealed
    /// again, and their memory is given back.
    pub fn revert(&mut self, range: Range<usize>) -> io::Result<()> {
        let start = range.start / PAGE_BYTES * PAGE_BYTES;
        let end =
            range.end.next_multiple_of(PAGE_BYTES).min(self.length.next_multiple_of(PAGE_BYTES));
        let Some(length) = end.checked_sub(start).filter(|length| *length > 0) else {
            return Ok(());
        };
        // SAFETY: the pages lie in this mapping, which is borrowed exclusively. What they read as
        // afterwards is initialised: the sealed file's bytes.
        let drop = || unsafe {
            libc::madvise(self.address.add(start).cast(), length, libc::MADV_DONTNEED)
        };
        let result = kernel_call::timed("madvise(MADV_DONTNEED)", drop);
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for PrivateMapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `of` with this length, and nothing borrows it any more.
        unsafe { libc::munmap(self.address.cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn writes_are_private_and_can_be_reverted() {
        let golden = vec![7; 3 * PAGE_BYTES];
        let memory =
            SealedMemory::create("test", golden.len(), |mut f| f.write_all(&golden)).unwrap();
        let mut one = PrivateMapping::of(&memory).unwrap();
        let two = PrivateMapping::of(&memory).unwrap();
        one.bytes_mut().fill(1);
        assert_eq!(two.bytes(), golden);
        one.revert(PAGE_BYTES..PAGE_BYTES + 1).unwrap();
        assert_eq!(one.bytes()[..PAGE_BYTES], vec![1; PAGE_BYTES]);
        assert_eq!(one.bytes()[PAGE_BYTES..2 * PAGE_BYTES], golden[PAGE_BYTES..2 * PAGE_BYTES]);
        assert_eq!(one.bytes()[2 * PAGE_BYTES..], vec![1; PAGE_BYTES]);
    }
}
