//! A device behind its transport, with guest memory that the input fills.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use vmm::DeviceFault;
use vmm::fuzzing::{FaultLatch, Interrupt, IrqLine, MmioTransport, VirtioDevice};

use crate::ram::Ram;
use crate::script::Script;

/// Where buffers of tests lie; the rings are below.
pub const BUFFERS: u64 = 0x1_0000;
pub const NOTIFY: u64 = 0x050;

const ACKNOWLEDGE: u64 = 0x064;
const STATUS: u64 = 0x070;
const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;
const DRIVER_OK: u32 = 15;
const NEEDS_RESET: u32 = 0x40;

struct Wire;

impl IrqLine for Wire {
    fn pulse(&self) -> io::Result<()> {
        Ok(())
    }
}

pub struct Rig {
    ram: Ram,
    transport: MmioTransport,
    faults: Arc<AtomicUsize>,
    sizes: Vec<u16>,
    /// What the driver has made available, for each queue.
    published: Vec<u16>,
}

impl Rig {
    /// A device that works on queues of `sizes`.
    pub fn start(
        device: Arc<Mutex<dyn VirtioDevice>>,
        ram_bytes: u64,
        sizes: &[u16],
        event_idx: bool,
    ) -> Self {
        let ram = Ram::zeroed(ram_bytes as usize);
        let interrupt = Arc::new(Interrupt::new(Box::new(Wire)));
        let faults = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&faults);
        let sink = Arc::new(move |_: &DeviceFault| {
            seen.fetch_add(1, Ordering::SeqCst);
        });
        let latch = Arc::new(FaultLatch::new(Arc::clone(&interrupt), sink));
        let transport = MmioTransport::new(device, ram.guest(), interrupt, latch);
        let published = vec![0; sizes.len()];
        let mut rig = Self { ram, transport, faults, sizes: sizes.to_vec(), published };
        rig.initialise(event_idx);
        assert_eq!(rig.get(STATUS), DRIVER_OK);
        rig
    }

    fn initialise(&mut self, event_idx: bool) {
        let features = VERSION_1 | if event_idx { EVENT_IDX } else { 0 };
        self.set(STATUS, 0);
        self.set(STATUS, 1);
        self.set(STATUS, 3);
        for half in [0, 1] {
            self.set(0x024, half);
            self.set(0x020, (features >> (32 * half)) as u32);
        }
        self.set(STATUS, 11);
        for queue in 0..self.sizes.len() {
            self.set(0x030, queue as u32);
            self.set(0x038, self.sizes[queue].into());
            let base = descriptors(queue);
            for (register, address) in
                [(0x080, base), (0x090, base + 0x1000), (0x0a0, base + 0x2000)]
            {
                self.set(register, address as u32);
                self.set(register + 4, 0);
            }
            self.set(0x044, 1);
            self.published[queue] = 0;
            self.put(base + 0x1000, &[0; 4]);
        }
        self.set(STATUS, DRIVER_OK);
    }

    pub fn get(&mut self, register: u64) -> u32 {
        let mut word = [0; 4];
        self.transport.read(register, &mut word);
        u32::from_le_bytes(word)
    }

    pub fn set(&mut self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    /// Faults since the start.
    pub fn faults(&self) -> usize {
        self.faults.load(Ordering::SeqCst)
    }

    /// Writes as the guest does; what is outside of its memory is left out.
    pub fn put(&mut self, address: u64, bytes: &[u8]) {
        self.ram.put(address, bytes);
    }

    pub fn descriptor(
        &mut self,
        queue: usize,
        index: u16,
        at: u64,
        length: u32,
        flags: u16,
        next: u16,
    ) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&at.to_le_bytes());
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.put(descriptors(queue) + 16 * u64::from(index), &bytes);
    }

    /// Makes a chain available.
    pub fn publish(&mut self, queue: usize, head: u16) {
        let slot = u64::from(self.published[queue] % self.sizes[queue]);
        self.put(descriptors(queue) + 0x1004 + 2 * slot, &head.to_le_bytes());
        self.published[queue] = self.published[queue].wrapping_add(1);
        self.set_index(queue, self.published[queue]);
    }

    fn set_index(&mut self, queue: usize, index: u16) {
        self.put(descriptors(queue) + 0x1002, &index.to_le_bytes());
    }

    /// Number of chains the device has used, wrapping.
    pub fn used(&self, queue: usize) -> u16 {
        u16::from_le_bytes(self.ram.fetch(descriptors(queue) + 0x2002))
    }

    /// Head of the chain that was used at this position.
    pub fn used_head(&self, queue: usize, position: u16) -> u16 {
        let slot = u64::from(position % self.sizes[queue]);
        u16::from_le_bytes(self.ram.fetch(descriptors(queue) + 0x2004 + 8 * slot))
    }

    /// One thing a driver may do, right or wrong.
    pub fn act(&mut self, script: &mut Script<'_>) {
        let kind = script.byte() % 12;
        let queue = script.below(self.sizes.len());
        let size = self.sizes[queue];
        match kind {
            0 | 1 => {
                let index = u16::from(script.byte()) % size;
                let flags = u16::from(script.byte() & 7);
                // Now and then outside of the table.
                let next = u16::from(script.byte()) % (size + 2);
                let at = self.address(script);
                self.descriptor(queue, index, at, length(script), flags, next);
            }
            2 => {
                let head = u16::from(script.byte()) % (size + 2);
                self.publish(queue, head);
            }
            3 => self.set_index(queue, script.half()),
            4 => {
                let at = self.address(script);
                let count = usize::from(script.byte());
                self.put(at, script.bytes(count));
            }
            5 | 6 => self.watched(|rig| rig.set(NOTIFY, queue as u32)),
            7 => self.watched(|rig| rig.set(ACKNOWLEDGE, script.byte().into())),
            8 => {
                let (register, value) = (u64::from(script.half() & 0x1ff), script.word());
                self.watched(|rig| rig.set(register, value));
            }
            9 => {
                let register = u64::from(script.half());
                let mut data = [0; 8];
                let width = script.below(8) + 1;
                self.transport.read(register, &mut data[..width]);
            }
            10 => self.initialise(script.byte() & 1 != 0),
            _ => {
                for _ in 0..script.below(32) {
                    let head = u16::from(script.byte()) % size;
                    self.publish(queue, head);
                }
            }
        }
    }

    /// Lets the device work.
    fn watched(&mut self, act: impl FnOnce(&mut Self)) {
        self.ram.note_changes();
        let faults = self.faults();
        act(self);
        assert!(self.faults() <= faults + 1, "a fault is told once");
        self.ram.note_changes();
        if self.faults() > faults {
            assert_ne!(self.get(STATUS) & NEEDS_RESET, 0, "a device that stopped says so");
        }
    }

    /// When the device has done its last: everything it changed is in its bitmap.
    pub fn end(self) {
        let Self { mut ram, transport, .. } = self;
        drop(transport);
        ram.note_changes();
        ram.check();
        ram.keep();
    }

    /// Mostly inside of memory.
    fn address(&self, script: &mut Script<'_>) -> u64 {
        match script.byte() % 8 {
            0..=4 => BUFFERS + u64::from(script.half()),
            5 => self.ram.bytes() as u64 - u64::from(script.byte()),
            6 => script.long(),
            _ => u64::from(script.half()),
        }
    }
}

fn descriptors(queue: usize) -> u64 {
    0x1000 + 0x3000 * queue as u64
}

fn length(script: &mut Script<'_>) -> u32 {
    match script.byte() % 4 {
        0 => script.byte().into(),
        1 => script.half().into(),
        2 => 512 * u32::from(script.byte() % 16),
        _ => script.word(),
    }
}
