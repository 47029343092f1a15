//! Where the guest has its rings and buffers, and what a correct request looks like.

use super::guest::{Step, register};

/// One descriptor: address, length, flags, next.
pub type Descriptor = (u64, u32, u16, u16);
/// Descriptors from number 0 on.
pub type Chain = Vec<Descriptor>;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// First byte after the RAM of these machines.
pub const END: u64 = 64 << 20;
/// Buffers of requests.
pub const HEADER: u64 = 0x100_0000;
pub const STATUS: u64 = 0x101_0000;
pub const DATA: u64 = 0x102_0000;
/// Room for tables.
pub const TABLE: u64 = 0x110_0000;
const RECEIVED: u64 = 0x120_0000;
/// Buffers that wait for packets.
pub const RECEIVE_BUFFERS: u16 = 32;
const BUFFER_BYTES: u64 = 4096;

/// `VIRTIO_BLK_T_IN` and `VIRTIO_BLK_T_OUT`.
pub const READ: u32 = 0;
pub const WRITE_DISK: u32 = 1;
const SECTOR_BYTES: usize = 512;

/// The devices, in slot order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Disk,
    Sockets,
    Entropy,
}

/// A queue and where its rings lie.
#[derive(Debug, Clone, Copy)]
pub struct Ring {
    pub device: Device,
    pub queue: u32,
    pub size: u16,
    pub table: u64,
    pub available: u64,
    pub used: u64,
}

const fn ring(device: Device, queue: u32, size: u16) -> Ring {
    let table = 0x80_0000 + device as u64 * 0x10_0000 + queue as u64 * 0x1_0000;
    Ring { device, queue, size, table, available: table + 0x2000, used: table + 0x4000 }
}

/// Packets to the guest.
pub const RECEIVE: Ring = ring(Device::Sockets, 0, 128);
const DISK: [Ring; 1] = [ring(Device::Disk, 0, 128)];
const SOCKETS: [Ring; 3] = [RECEIVE, ring(Device::Sockets, 1, 128), ring(Device::Sockets, 2, 8)];
const ENTROPY: [Ring; 1] = [ring(Device::Entropy, 0, 16)];

impl Ring {
    /// Where a descriptor lies.
    pub fn descriptor(&self, index: u64) -> u64 {
        self.table + 16 * index
    }

    /// This queue with all its rings elsewhere.
    pub fn moved(self, by: u64) -> Self {
        let Self { table, available, used, .. } = self;
        Self { table: table + by, available: available + by, used: used + by, ..self }
    }
}

impl Device {
    pub const ALL: [Self; 3] = [Self::Disk, Self::Sockets, Self::Entropy];

    /// Every queue of the device.
    pub fn rings(self) -> &'static [Ring] {
        match self {
            Self::Disk => &DISK,
            Self::Sockets => &SOCKETS,
            Self::Entropy => &ENTROPY,
        }
    }

    /// The queue in which the guest says what it wants.
    pub fn requests(self) -> Ring {
        match self {
            Self::Disk => DISK[0],
            Self::Sockets => SOCKETS[1],
            Self::Entropy => ENTROPY[0],
        }
    }

    pub fn register(self, offset: u64) -> u64 {
        register(self as u64, offset)
    }

    /// Rings the bell of [`Self::requests`].
    pub fn notify(self) -> Step {
        Step::Put32(self.register(0x050), self.requests().queue)
    }
}

/// What a driver does to start a device whose rings lie at `rings`.
pub fn start_with(device: Device, rings: &[Ring]) -> Vec<Step> {
    let set = |offset, value| Step::Put32(device.register(offset), value);
    let halves = |offset, address: u64| {
        [set(offset, address as u32), set(offset + 4, (address >> 32) as u32)]
    };
    let mut steps = vec![set(0x070, 0), set(0x070, 1), set(0x070, 3)];
    // Nothing but VIRTIO_F_VERSION_1, bit 32: so every used buffer is an interrupt.
    steps.extend([set(0x024, 0), set(0x020, 0), set(0x024, 1), set(0x020, 1), set(0x070, 11)]);
    for ring in rings {
        steps.extend([set(0x030, ring.queue), set(0x038, ring.size.into())]);
        steps.extend(halves(0x080, ring.table));
        steps.extend(halves(0x090, ring.available));
        steps.extend(halves(0x0a0, ring.used));
        steps.push(set(0x044, 1));
    }
    steps.push(set(0x070, 15));
    steps
}

/// [`start_with`] the usual rings.
pub fn start(device: Device) -> Vec<Step> {
    start_with(device, device.rings())
}

/// What lies in a device's rings before it is started.
pub fn layout(device: Device) -> Vec<(u64, Vec<u8>)> {
    let mut pieces: Vec<_> = device
        .rings()
        .iter()
        .flat_map(|ring| [ring.table, ring.available, ring.used])
        .map(|at| (at, vec![0; 0x2000]))
        .collect();
    if device == Device::Sockets {
        let buffers = 0..u64::from(RECEIVE_BUFFERS);
        let table = buffers.flat_map(|n| bytes((receive_buffer(n), BUFFER_BYTES as u32, WRITE, 0)));
        pieces.push((RECEIVE.table, table.collect()));
        let index = [0, RECEIVE_BUFFERS];
        let slots = (0..RECEIVE.size).map(|slot| slot % RECEIVE_BUFFERS);
        let ring = index.into_iter().chain(slots).flat_map(u16::to_le_bytes);
        pieces.push((RECEIVE.available, ring.collect()));
    }
    pieces
}

/// Where a packet is received.
pub fn receive_buffer(number: u64) -> u64 {
    RECEIVED + BUFFER_BYTES * number
}

/// A descriptor as it lies in memory.
pub fn bytes((address, length, flags, next): Descriptor) -> Vec<u8> {
    let (address, length) = (address.to_le_bytes(), length.to_le_bytes());
    [&address[..], &length, &flags.to_le_bytes(), &next.to_le_bytes()].concat()
}

/// Chains buffers: address, length, and whether the device writes.
pub fn chain(buffers: &[(u64, u32, bool)]) -> Chain {
    let last = buffers.len() as u16 - 1;
    (0..)
        .zip(buffers)
        .map(|(index, &(address, length, writable))| {
            let next = if index < last { NEXT } else { 0 };
            (address, length, next | if writable { WRITE } else { 0 }, index + 1)
        })
        .collect()
}

/// A request that the device answers. For the disk, a header has to be there.
pub fn good(device: Device) -> Chain {
    match device {
        Device::Disk => disk_request(READ),
        // All zeros: its source is no known address, so it is dropped.
        Device::Sockets => chain(&[(HEADER, 44, false)]),
        Device::Entropy => chain(&[(DATA, 64, true)]),
    }
}

/// A request for one sector.
pub fn disk_request(kind: u32) -> Chain {
    chain(&[(HEADER, 16, false), (DATA, SECTOR_BYTES as u32, kind == READ), (STATUS, 1, true)])
}

/// `struct virtio_blk_req`.
pub fn disk_header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

/// What the disk holds.
pub fn disk() -> Vec<u8> {
    (0..64_u32 << 10).map(|at| (at / 7 + at / 512) as u8).collect()
}

/// What a sector of it holds.
pub fn sector(number: usize) -> [u8; SECTOR_BYTES] {
    disk()[number * SECTOR_BYTES..][..SECTOR_BYTES].try_into().unwrap()
}
