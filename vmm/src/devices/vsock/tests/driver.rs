//! The driver's half of a split virtqueue.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestRam;

/// `VIRTQ_DESC_F_NEXT`
pub const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`
pub const WRITE: u16 = 2;

/// One part of a chain.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    pub address: u64,
    pub length: u32,
    pub writable: bool,
}

/// A ring as the driver sees it. One chain per slot; slot `i` starts at descriptor `i * stride`.
#[derive(Clone)]
pub struct DriverRing {
    memory: Arc<GuestRam>,
    base: u64,
    pub size: u16,
    stride: u16,
    event_idx: bool,
    free: Vec<u16>,
    pub published: u16,
    announced: u16,
    taken: u16,
}

impl DriverRing {
    /// A ring at `base`, which must be a multiple of 4096; it takes three pages.
    pub fn new(memory: &Arc<GuestRam>, base: u64, size: u16, stride: u16, event_idx: bool) -> Self {
        Self {
            memory: Arc::clone(memory),
            base,
            size,
            stride,
            event_idx,
            free: (0..size / stride).rev().map(|slot| slot * stride).collect(),
            published: 0,
            announced: 0,
            taken: 0,
        }
    }

    /// The queue as the transport would hand it to the device.
    pub fn queue(&self) -> Queue {
        let mut queue = Queue::new(self.size).unwrap();
        queue.set_desc_table_address(Some(self.base as u32), None);
        queue.set_avail_ring_address(Some(self.avail() as u32), None);
        queue.set_used_ring_address(Some(self.used() as u32), None);
        queue.set_event_idx(self.event_idx);
        queue.set_ready(true);
        assert!(queue.is_valid(&*self.memory));
        queue
    }

    fn avail(&self) -> u64 {
        self.base + 0x1000
    }

    fn used(&self) -> u64 {
        self.base + 0x2000
    }

    fn put<T: vm_memory::ByteValued>(&self, address: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }

    fn load(&self, address: u64) -> u16 {
        let address = GuestAddress(address);
        u16::from_le(self.memory.load(address, Ordering::SeqCst).unwrap())
    }

    /// Writes a descriptor as it is.
    pub fn descriptor(&self, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        let at = self.base + 16 * u64::from(index);
        self.put(at, address.to_le());
        self.put(at + 8, length.to_le());
        self.put(at + 12, flags.to_le());
        self.put(at + 14, next.to_le());
    }

    /// Publishes a chain; false when the ring is full. Returns its head.
    pub fn add(&mut self, parts: &[Part]) -> Option<u16> {
        assert!(parts.len() <= usize::from(self.stride));
        let head = self.free.pop()?;
        for (index, part) in (head..).zip(parts) {
            let last = index == head + parts.len() as u16 - 1;
            let flags = if part.writable { WRITE } else { 0 } | if last { 0 } else { NEXT };
            self.descriptor(index, part.address, part.length, flags, index + 1);
        }
        self.publish(head);
        Some(head)
    }

    /// Publishes a chain of one part, made once its head is known; false when the ring is full.
    pub fn add_one(&mut self, part: impl FnOnce(u16) -> Part) -> bool {
        let Some(head) = self.free.pop() else { return false };
        let Part { address, length, writable } = part(head);
        // All of it before the device can see it, which may be at work on another thread.
        self.descriptor(head, address, length, if writable { WRITE } else { 0 }, 0);
        self.publish(head);
        true
    }

    /// True when a chain can be published.
    pub fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// This ring in another memory.
    pub fn move_to(&mut self, memory: &Arc<GuestRam>) {
        self.memory = Arc::clone(memory);
    }

    /// Publishes a head as it is.
    pub fn publish(&mut self, head: u16) {
        let slot = u64::from(self.published % self.size);
        self.put(self.avail() + 4 + 2 * slot, head.to_le());
        self.published = self.published.wrapping_add(1);
        self.set_avail_index(self.published);
    }

    /// Overwrites the ring's index.
    pub fn set_avail_index(&self, index: u16) {
        let address = GuestAddress(self.avail() + 2);
        self.memory.store(index.to_le(), address, Ordering::SeqCst).unwrap();
    }

    /// True when the device wants to hear of what was published since the last call
    /// (section 2.7.10).
    pub fn should_kick(&mut self) -> bool {
        let (old, new) = (self.announced, self.published);
        self.announced = new;
        if old == new {
            return false;
        }
        if self.event_idx {
            let event = self.load(self.used() + 4 + 8 * u64::from(self.size));
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.load(self.used()) & 1 == 0
        }
    }

    /// The next used chain: head and bytes written. With none left, asks for an interrupt at the
    /// next one.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        if self.load(self.used() + 2) == self.taken {
            if self.event_idx {
                let used_event = self.avail() + 4 + 2 * u64::from(self.size);
                self.put(used_event, self.taken.to_le());
            }
            // Something may have come in before the device could see that.
            if self.load(self.used() + 2) == self.taken {
                return None;
            }
        }
        let at = self.used() + 4 + 8 * u64::from(self.taken % self.size);
        let mut element = [0; 8];
        let address = GuestAddress(at);
        self.memory.read_slice(&mut element, address).unwrap();
        self.taken = self.taken.wrapping_add(1);
        let head = u32::from_le_bytes(element[..4].try_into().unwrap()) as u16;
        self.free.push(head);
        let written = u32::from_le_bytes(element[4..].try_into().unwrap());
        Some((head, written))
    }
}
