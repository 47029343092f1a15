//! Golden memory: what guest RAM looked like when it was captured, for any number of machines.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::{ptr, slice};

use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::{DirtyMap, GuestRam, MemoryError, PAGE_BYTES, SealedMemory, is_zero};

/// How much is looked at before it is written out.
const CHUNK_PAGES: usize = 512;

/// Sealed guest RAM. Pages that were all zero take no memory. Machines map it privately, so that
/// each owns only the pages it has written.
#[derive(Debug)]
pub struct GoldenMemory {
    sealed: SealedMemory,
    view: View,
    regions: Vec<GoldenRegion>,
}

/// One range of guest-physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoldenRegion {
    /// Guest-physical address of the first byte.
    pub start: u64,
    /// Where its content begins in the sealed memory.
    pub offset: usize,
    /// Length in bytes, whole pages.
    pub length: usize,
}

impl GoldenMemory {
    /// Copies `ram` and seals the copy. No vCPU and no device may run.
    pub fn capture(ram: &GuestRam) -> Result<Self, MemoryError> {
        let regions = regions_of(ram);
        let length = regions.iter().map(|region| region.length).sum();
        let sealed = SealedMemory::create("golden", length, |file| {
            for (region, mapped) in regions.iter().zip(ram.iter()) {
                // SAFETY: the mapping belongs to `ram`, is `length` bytes long and readable, and
                // nothing writes to it while the machine stands still.
                let bytes = unsafe { slice::from_raw_parts(mapped.as_ptr(), region.length) };
                write_data_pages(file, bytes, region.offset)?;
            }
            Ok::<(), io::Error>(())
        })
        .map_err(MemoryError::Golden)?;
        Self::over(sealed, regions)
    }

    /// Golden memory whose content is there already, region after region.
    pub fn over(sealed: SealedMemory, regions: Vec<GoldenRegion>) -> Result<Self, MemoryError> {
        let view = View::of(&sealed).map_err(MemoryError::Golden)?;
        Ok(Self { sealed, view, regions })
    }

    /// Replaces the content of `ram`, which must have the same shape, by private mappings of this
    /// memory. No vCPU and no device may run.
    pub fn map_into(&self, ram: &GuestRam) -> Result<(), MemoryError> {
        if regions_of(ram) != self.regions {
            return Err(MemoryError::Golden(io::Error::other("the guest's RAM has another shape")));
        }
        for (region, mapped) in self.regions.iter().zip(ram.iter()) {
            // SAFETY: the range is the whole of a mapping that `ram` owns and unmaps; guest
            // memory is only ever reached through raw pointers and volatile accesses.
            unsafe { self.sealed.map_over(mapped.as_ptr(), region.offset, region.length) }
                .map_err(MemoryError::Golden)?;
            mapped.bitmap().map().clear();
        }
        Ok(())
    }

    /// New RAM with this content, of which nothing is its own yet.
    pub fn map(&self) -> Result<GuestRam, MemoryError> {
        let ranges: Vec<_> = self
            .regions
            .iter()
            .map(|region| (vm_memory::GuestAddress(region.start), region.length))
            .collect();
        let ram = GuestMemoryMmap::<DirtyMap>::from_ranges(&ranges)
            .map_err(|e| MemoryError::Map(e.to_string()))?;
        self.map_into(&ram)?;
        Ok(ram)
    }

    /// Ranges of guest-physical memory of a machine in this state.
    pub fn regions(&self) -> &[GoldenRegion] {
        &self.regions
    }

    /// The content of one region.
    pub fn bytes(&self, region: &GoldenRegion) -> &[u8] {
        self.view.bytes().get(region.offset..region.offset + region.length).unwrap_or_default()
    }

    /// Flips one bit of the content that resets copy, behind the back of everything: puts another
    /// page in the place of the one that holds the guest-physical `address`. What the sealed memory
    /// holds stays as it is, as do mappings of it.
    #[cfg(any(test, feature = "testing"))]
    pub fn tamper(&self, address: u64) -> io::Result<()> {
        let outside = || io::Error::other("there is no memory at this address");
        let holds = |region: &&GoldenRegion| {
            address.checked_sub(region.start).is_some_and(|at| at < region.length as u64)
        };
        let region = self.regions.iter().find(holds).ok_or_else(outside)?;
        let at = region.offset + (address - region.start) as usize;
        self.view.replace_byte(at, |byte| byte ^ 1)
    }

    /// The descriptor behind it.
    pub fn sealed(&self) -> &SealedMemory {
        &self.sealed
    }
}

fn regions_of(ram: &GuestRam) -> Vec<GoldenRegion> {
    let mut offset = 0;
    ram.iter()
        .map(|region| {
            let length = region.len() as usize;
            let found = GoldenRegion { start: region.start_addr().raw_value(), offset, length };
            offset += length;
            found
        })
        .collect()
}

/// Writes runs of pages that are not all zero.
fn write_data_pages(file: &File, bytes: &[u8], offset: usize) -> io::Result<()> {
    for (index, chunk) in bytes.chunks(CHUNK_PAGES * PAGE_BYTES).enumerate() {
        let at = offset + index * CHUNK_PAGES * PAGE_BYTES;
        let mut pending: Option<(usize, usize)> = None;
        for (page, content) in chunk.chunks(PAGE_BYTES).enumerate() {
            let start = page * PAGE_BYTES;
            match (is_zero(content), pending) {
                (true, None) => {}
                (false, None) => pending = Some((start, start + content.len())),
                (false, Some((first, _))) => pending = Some((first, start + content.len())),
                (true, Some((first, end))) => {
                    write_run(file, chunk, first, end, at)?;
                    pending = None;
                }
            }
        }
        if let Some((first, end)) = pending {
            write_run(file, chunk, first, end, at)?;
        }
    }
    Ok(())
}

fn write_run(file: &File, chunk: &[u8], first: usize, end: usize, at: usize) -> io::Result<()> {
    file.write_all_at(chunk.get(first..end).unwrap_or_default(), (at + first) as u64)
}

/// A read-only mapping of sealed memory.
#[derive(Debug)]
struct View {
    address: *mut u8,
    length: usize,
}

// SAFETY: the mapping belongs to this value and is only ever read.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    fn of(memory: &SealedMemory) -> io::Result<Self> {
        let length = memory.length();
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ,
                // The same pages as with a shared mapping, which kernels before Linux 6.7 refuse for
                // memory that is sealed against writing.
                libc::MAP_PRIVATE,
                memory.file().as_raw_fd(),
                0,
            )
        };
        if ptr::eq(address, libc::MAP_FAILED) {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { address: address.cast(), length })
    }

    /// Maps a copy of the page that holds byte `at` over it, with that byte changed.
    #[cfg(any(test, feature = "testing"))]
    fn replace_byte(&self, at: usize, change: impl FnOnce(u8) -> u8) -> io::Result<()> {
        let outside = || io::Error::other("outside the sealed memory");
        let start = at / PAGE_BYTES * PAGE_BYTES;
        let content = self.bytes().get(start..start + PAGE_BYTES).ok_or_else(outside)?;
        let mut content = content.to_vec();
        let byte = content.get_mut(at - start).ok_or_else(outside)?;
        *byte = change(*byte);
        let copy = SealedMemory::create("tampered", PAGE_BYTES, |mut file| {
            std::io::Write::write_all(&mut file, &content)
        })?;
        // SAFETY: the page belongs to this view, is page aligned and stays readable. That bytes
        // change under a reference is the point, and only tests of the checks ask for it.
        unsafe { copy.map_over(self.address.add(start), 0, PAGE_BYTES) }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped and readable for as long as `self` lives; no process can write to sealed
        // memory.
        unsafe { slice::from_raw_parts(self.address, self.length) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `of` with this length, and nothing borrows it any more.
        unsafe { libc::munmap(self.address.cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory::allocate;

    fn sample() -> (GuestRam, GoldenMemory) {
        let ram = allocate(64, |bytes| vec![(0, bytes)]).unwrap();
        for (address, byte) in [(0_u64, 1_u8), (0x1fff, 2), (0x10_0000, 3), ((64 << 20) - 1, 4)] {
            ram.write_obj(byte, GuestAddress(address)).unwrap();
        }
        let golden = GoldenMemory::capture(&ram).unwrap();
        (ram, golden)
    }

    #[test]
    fn the_copy_has_every_byte_and_zeros_take_no_room() {
        let (ram, golden) = sample();
        let mut content = vec![0; 64 << 20];
        ram.read_slice(&mut content, GuestAddress(0)).unwrap();
        assert!(golden.bytes(&golden.regions()[0]) == content);
        let (_, fresh) = sample();
        let blocks =
            std::os::unix::fs::MetadataExt::blocks(&fresh.sealed().file().metadata().unwrap());
        assert_eq!(blocks * 512, 4 * PAGE_BYTES as u64);
    }

    #[test]
    fn machines_own_what_they_write() {
        let (ram, golden) = sample();
        golden.map_into(&ram).unwrap();
        let other = golden.map().unwrap();
        ram.write_obj(9_u8, GuestAddress(0x1fff)).unwrap();
        assert_eq!(ram.read_obj::<u8>(GuestAddress(0x1fff)).unwrap(), 9);
        assert_eq!(other.read_obj::<u8>(GuestAddress(0x1fff)).unwrap(), 2);
        assert_eq!(golden.bytes(&golden.regions()[0])[0x1fff], 2);
    }

    #[test]
    fn another_shape_is_refused() {
        let (_, golden) = sample();
        assert!(golden.map_into(&allocate(128, |bytes| vec![(0, bytes)]).unwrap()).is_err());
    }
}
