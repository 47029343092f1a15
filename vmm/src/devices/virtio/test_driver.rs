//! A driver for tests: it reaches a device through the transport's registers and real rings in
//! real guest RAM, and can be as wrong as a test wants.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MmapRegion};

use super::transport::MmioTransport;
use super::{DeviceFault, FaultLatch, Interrupt, IrqLine, VirtioDevice};
use crate::memory::GuestRam;

/// Guest RAM of a test.
pub const RAM_BYTES: u64 = 1 << 20;
/// Entries of the test's queue.
pub const QUEUE_SIZE: u16 = 16;
pub const DESCRIPTORS: u64 = 0x1000;
pub const AVAILABLE: u64 = 0x2000;
pub const USED: u64 = 0x3000;
/// First address tests put buffers at.
pub const BUFFERS: u64 = 0x1_0000;

const VERSION_1: u64 = 1 << 32;

/// One descriptor: address, length, flags, next.
pub type Descriptor = (u64, u32, u16, u16);

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

#[derive(Default)]
struct Pulses(Arc<AtomicU64>);

impl IrqLine for Pulses {
    fn pulse(&self) -> std::io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

pub struct TestDriver {
    pub memory: Arc<GuestRam>,
    pub transport: MmioTransport,
    pub faults: Arc<Mutex<Vec<DeviceFault>>>,
    interrupts: Arc<AtomicU64>,
    available: u16,
}

impl TestDriver {
    pub fn new(device: impl VirtioDevice + 'static) -> Self {
        Self::sharing(Arc::new(Mutex::new(device)))
    }

    /// A driver of a device that the test keeps a hand on.
    pub fn sharing(device: Arc<Mutex<dyn VirtioDevice>>) -> Self {
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), RAM_BYTES as usize)]).unwrap();
        let memory = Arc::new(ram);
        let interrupts = Arc::new(AtomicU64::new(0));
        let interrupt = Arc::new(Interrupt::new(Box::new(Pulses(Arc::clone(&interrupts)))));
        let faults = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&faults);
        let sink = Arc::new(move |fault: &DeviceFault| seen.lock().unwrap().push(fault.clone()));
        let latch = Arc::new(FaultLatch::new(Arc::clone(&interrupt), sink));
        let transport = MmioTransport::new(device, Arc::clone(&memory), interrupt, latch);
        Self { memory, transport, faults, interrupts, available: 0 }
    }

    /// A device that works, with `features` beside `VERSION_1`.
    pub fn started(device: impl VirtioDevice + 'static, features: u64) -> Self {
        let mut driver = Self::new(device);
        driver.start(features);
        driver
    }

    /// Initialises the device as a good driver does.
    pub fn start(&mut self, features: u64) {
        self.negotiate(VERSION_1 | features);
        self.set_up_queue(0);
        self.set(0x070, 15);
        assert_eq!(self.get(0x070), 15);
    }

    pub fn negotiate(&mut self, features: u64) {
        self.set(0x070, 1);
        self.set(0x070, 3);
        for half in [0, 1] {
            self.set(0x024, half);
            self.set(0x020, (features >> (32 * half)) as u32);
        }
        self.set(0x070, 11);
    }

    pub fn set_up_queue(&mut self, queue: u32) {
        self.set(0x030, queue);
        self.set(0x038, QUEUE_SIZE.into());
        for (register, address) in [(0x080, DESCRIPTORS), (0x090, AVAILABLE), (0x0a0, USED)] {
            self.set(register, address as u32);
            self.set(register + 4, 0);
        }
        self.set(0x044, 1);
    }

    pub fn get(&mut self, register: u64) -> u32 {
        let mut word = [0; 4];
        self.transport.read(register, &mut word);
        u32::from_le_bytes(word)
    }

    pub fn set(&mut self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    pub fn descriptor(&self, index: u16, (address, length, flags, next): Descriptor) {
        self.descriptor_at(DESCRIPTORS + 16 * u64::from(index), (address, length, flags, next));
    }

    pub fn descriptor_at(&self, at: u64, (address, length, flags, next): Descriptor) {
        let at = |offset| GuestAddress(at + offset);
        self.memory.write_obj(address, at(0)).unwrap();
        self.memory.write_obj(length, at(8)).unwrap();
        self.memory.write_obj(flags, at(12)).unwrap();
        self.memory.write_obj(next, at(14)).unwrap();
    }

    /// Makes the chain at `head` available and notifies the device.
    pub fn submit(&mut self, head: u16) {
        self.add(head);
        self.set(0x050, 0);
    }

    /// Makes the chain at `head` available and keeps quiet about it.
    pub fn add(&mut self, head: u16) {
        let slot = AVAILABLE + 4 + 2 * u64::from(self.available % QUEUE_SIZE);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.available = self.available.wrapping_add(1);
        self.publish(self.available);
    }

    pub fn publish(&self, index: u16) {
        self.memory.write_obj(index, GuestAddress(AVAILABLE + 2)).unwrap();
    }

    /// Writes buffers as one chain from descriptor 0 on.
    pub fn chain(&self, parts: &[(u64, u32, bool)]) {
        for (index, (address, length, writable)) in parts.iter().enumerate() {
            let more = if index + 1 < parts.len() { NEXT } else { 0 };
            let flags = more | if *writable { WRITE } else { 0 };
            let index = index as u16;
            self.descriptor(index, (*address, *length, flags, index + 1));
        }
    }

    /// Submits buffers as one chain from descriptor 0 on; returns the used length.
    pub fn request(&mut self, parts: &[(u64, u32, bool)]) -> Option<u32> {
        let before = self.used_index();
        self.chain(parts);
        self.submit(0);
        (self.used_index() != before).then(|| {
            let slot = USED + 4 + 8 * u64::from(before % QUEUE_SIZE);
            self.memory.read_obj(GuestAddress(slot + 4)).unwrap()
        })
    }

    pub fn used_index(&self) -> u16 {
        self.memory.read_obj(GuestAddress(USED + 2)).unwrap()
    }

    /// The index at which the device wants to be notified (section 2.7.10).
    pub fn available_event(&self) -> u16 {
        self.memory.read_obj(GuestAddress(USED + 4 + 8 * u64::from(QUEUE_SIZE))).unwrap()
    }

    pub fn interrupts(&self) -> u64 {
        self.interrupts.load(Ordering::SeqCst)
    }

    /// Guest RAM, and how far the driver has come.
    pub fn save(&self) -> (Vec<u8>, u16) {
        (self.read(0, RAM_BYTES as usize), self.available)
    }

    /// Puts back what [`Self::save`] returned.
    pub fn load(&mut self, (ram, available): &(Vec<u8>, u16)) {
        self.write(0, ram);
        self.available = *available;
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Forgets which pages were written so far.
    pub fn clean(&self) {
        self.memory.iter().for_each(|region| MmapRegion::bitmap(region).clear());
    }

    /// True if the page was written since the last [`Self::clean`].
    pub fn is_dirty(&self, address: u64) -> bool {
        self.memory.iter().any(|region| region.bitmap().dirty_at(address as usize))
    }

    /// Asserts that whatever `act` makes the device do stays within `allowed` (start, length) and
    /// the used ring, and is found in the bitmap of dirty pages.
    pub fn assert_confined(&mut self, allowed: &[(u64, u64)], act: impl FnOnce(&mut Self)) {
        let before = self.read(0, RAM_BYTES as usize);
        self.clean();
        act(self);
        let after = self.read(0, RAM_BYTES as usize);
        let used = (USED, 0x1000);
        for (at, (old, new)) in (0..).zip(before.iter().zip(&after)).filter(|(_, (a, b))| a != b) {
            let mine = allowed
                .iter()
                .chain([&used])
                .any(|(start, length)| (*start..start.saturating_add(*length)).contains(&at));
            assert!(mine, "byte {at:#x} went from {old:#x} to {new:#x}");
            assert!(self.is_dirty(at), "byte {at:#x} changed behind the bitmap's back");
        }
    }

    /// Asserts that the device has stopped with a fault, says so, and ignores notifications.
    pub fn assert_stopped(&mut self, contains: &str) {
        let faults = self.faults.lock().unwrap().clone();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].to_string().contains(contains), "{}", faults[0]);
        assert_ne!(self.get(0x070) & 0x40, 0);
        let refused = self.transport.refused_writes();
        self.set(0x050, 0);
        assert_eq!(self.transport.refused_writes(), refused + 1);
    }
}
