//! Guest memory of a rig, kept from one input to the next: mapping it anew takes longer than most
//! inputs do.
//!
//! A copy beside it has what the driver wrote, and every page that the device said it wrote. What
//! differs in the end was changed behind the back of the device's bitmap, and a reset, which puts
//! back only what is in there, would leave it as it is. A later write to the same page that is in
//! the bitmap hides that; the same input without that write does not.

use std::cell::RefCell;
use std::mem;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, MmapRegion};
use vmm::PAGE_BYTES;
use vmm::fuzzing::GuestRam;

thread_local! {
    /// What the last input has left.
    static SPARE: RefCell<Option<Ram>> = const { RefCell::new(None) };
}

/// Guest memory with its copy.
pub struct Ram {
    memory: Arc<GuestRam>,
    expected: Vec<u8>,
    /// What there is, for comparing.
    found: Vec<u8>,
    /// Pages that may not be zero.
    used: Vec<bool>,
}

impl Ram {
    /// Whole pages of memory, all zero.
    pub fn zeroed(bytes: usize) -> Self {
        let spare = SPARE.with(RefCell::take).filter(|spare| {
            // No other thread may write to it any more.
            spare.expected.len() == bytes && Arc::strong_count(&spare.memory) == 1
        });
        let Some(mut ram) = spare else { return Self::map(bytes) };
        ram.note_changes();
        for (page, used) in ram.used.iter_mut().enumerate() {
            if mem::take(used) {
                let at = page * PAGE_BYTES;
                ram.memory.write_slice(&[0; PAGE_BYTES], GuestAddress(at as u64)).unwrap();
                ram.expected[at..at + PAGE_BYTES].fill(0);
            }
        }
        ram
    }

    fn map(bytes: usize) -> Self {
        let memory = Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), bytes)]).unwrap());
        let used = vec![false; bytes / PAGE_BYTES];
        Self { memory, expected: vec![0; bytes], found: vec![0; bytes], used }
    }

    /// Leaves it to the next input.
    pub fn keep(self) {
        SPARE.with(|spare| spare.replace(Some(self)));
    }

    /// The memory as a device has it.
    pub fn guest(&self) -> Arc<GuestRam> {
        Arc::clone(&self.memory)
    }

    pub fn bytes(&self) -> usize {
        self.expected.len()
    }

    /// Writes as the driver does; what is outside is left out.
    pub fn put(&mut self, address: u64, bytes: &[u8]) {
        let start = usize::try_from(address).map_or(self.bytes(), |at| at.min(self.bytes()));
        let bytes = &bytes[..bytes.len().min(self.bytes() - start)];
        let end = start + bytes.len();
        self.memory.write_slice(bytes, GuestAddress(start as u64)).unwrap();
        self.expected[start..end].copy_from_slice(bytes);
        self.used[start / PAGE_BYTES..end.div_ceil(PAGE_BYTES)].fill(true);
    }

    /// Reads as the driver does; what is outside is zero.
    pub fn fetch<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        let _ = self.memory.read_slice(&mut bytes, GuestAddress(address));
        bytes
    }

    /// Takes over every page that was marked since the last time. Before the device works, so that
    /// pages which only the driver wrote do not excuse it; and after.
    pub fn note_changes(&mut self) {
        for region in self.memory.iter() {
            MmapRegion::bitmap(region).drain(|page| {
                self.used[page] = true;
                let at = page * PAGE_BYTES;
                let copy = &mut self.expected[at..at + PAGE_BYTES];
                self.memory.read_slice(copy, GuestAddress(at as u64)).unwrap();
            });
        }
    }

    /// Everything is as the driver wrote it, or as the device said it did.
    pub fn check(&mut self) {
        self.memory.read_slice(&mut self.found, GuestAddress(0)).unwrap();
        if self.found == self.expected {
            return;
        }
        let pages = self.found.chunks(PAGE_BYTES).zip(self.expected.chunks(PAGE_BYTES));
        let changed: Vec<usize> =
            pages.enumerate().filter(|(_, (one, other))| one != other).map(|(at, _)| at).collect();
        panic!("pages {changed:?} changed behind the bitmap's back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 4 * PAGE_BYTES;

    #[test]
    fn what_the_driver_wrote_and_the_device_marked_is_in_order() {
        let mut ram = Ram::zeroed(BYTES);
        ram.put(PAGE_BYTES as u64 - 1, b"driver");
        ram.put(BYTES as u64 - 1, b"over the end");
        ram.put(u64::MAX, b"outside");
        ram.note_changes();
        ram.guest().write_slice(b"device", GuestAddress(0x2003)).unwrap();
        ram.note_changes();
        ram.check();
        assert_eq!(&ram.fetch(0xfff), b"driver");
        assert_eq!(ram.fetch(BYTES as u64 - 1), [b'o', 0]);
    }

    #[test]
    #[should_panic(expected = "pages [2] changed")]
    fn a_write_that_is_not_in_the_bitmap_is_seen() {
        let mut ram = Ram::zeroed(BYTES);
        ram.guest().write_slice(b"device", GuestAddress(0x2003)).unwrap();
        ram.memory.iter().for_each(|region| MmapRegion::bitmap(region).clear());
        ram.note_changes();
        ram.check();
    }

    #[test]
    fn memory_that_is_used_again_is_zero() {
        let mut ram = Ram::zeroed(BYTES);
        let used = ram.guest();
        let place = Arc::as_ptr(&used);
        ram.put(7, b"driver");
        ram.keep();
        // The device goes on until it is dropped.
        used.write_slice(b"device", GuestAddress(0x3000)).unwrap();
        drop(used);
        let mut again = Ram::zeroed(BYTES);
        assert_eq!(Arc::as_ptr(&again.guest()), place);
        assert_eq!(again.fetch::<BYTES>(0), [0; BYTES]);
        again.check();
    }

    #[test]
    fn memory_that_is_still_shared_is_not_used_again() {
        let ram = Ram::zeroed(BYTES);
        let held = ram.guest();
        ram.keep();
        assert!(!Arc::ptr_eq(&Ram::zeroed(BYTES).guest(), &held));
    }
}
