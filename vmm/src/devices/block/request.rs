//! One request to the disk (virtio 1.2, section 5.2.6).
//!
//! A request that asks for something impossible gets an error status. A chain that has no place
//! for a status cannot be answered and is a fault.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_queue::DescriptorChain;

use super::{Overlay, SECTOR_BYTES};
use crate::devices::virtio::DeviceFault;
use crate::devices::virtio::chain::{self, Buffers};
use crate::devices::virtio::request_queue::Completion;
use crate::devices::virtio::virtqueue::QueueName;
use crate::memory::GuestRam;

pub(super) const NAME: QueueName = QueueName { device: "block", queue: 0 };

/// `type`, `reserved`, `sector`.
const HEADER_BYTES: usize = 16;
const STATUS_BYTES: usize = 1;
const SERIAL: &[u8] = b"bsm-disk";

/// The most data of one request.
pub(super) const MAX_REQUEST_BYTES: usize = SEGMENTS as usize * SEGMENT_BYTES as usize;
/// Bytes of one data segment.
pub(super) const SEGMENT_BYTES: u32 = 128 << 10;
/// Data segments of one request: the queue's length less header and status.
pub(super) const SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Largest size of the queue.
pub(super) const QUEUE_SIZE: u16 = 128;

/// The buffers of one request, kept from one to the next.
#[derive(Default)]
pub(super) struct RequestBuffers {
    readable: Buffers,
    writable: Buffers,
}

impl RequestBuffers {
    /// Carries out the request in `chain`.
    pub(super) fn process(
        &mut self,
        overlay: &mut Overlay,
        memory: &GuestRam,
        chain: DescriptorChain<&GuestRam>,
        limit: u16,
    ) -> Result<Completion, DeviceFault> {
        let Self { readable, writable } = self;
        chain::load_request(readable, writable, chain, memory, limit)
            .map_err(|reason| NAME.bad_chain(reason))?;
        let Some(room) = writable.bytes().checked_sub(STATUS_BYTES) else {
            return Err(NAME.bad_chain("no place for the status".into()));
        };
        let request = BlockRequest { memory, overlay, readable, writable, room };
        let (status, done) = match request.carry_out() {
            Ok(done) => (VIRTIO_BLK_S_OK, done),
            Err(status) => (status, Done::default()),
        };
        writable.write(memory, room, &[status as u8]).map_err(|reason| NAME.bad_chain(reason))?;
        let written = u32::try_from(done.read + STATUS_BYTES).unwrap_or(u32::MAX);
        Ok(Completion { written, copied: (done.read + done.written) as u64 })
    }
}

/// Bytes a request read from the disk and wrote to it.
#[derive(Default)]
struct Done {
    read: usize,
    written: usize,
}

/// One request whose chain lies in guest RAM and has a place for the status.
struct BlockRequest<'a> {
    memory: &'a GuestRam,
    overlay: &'a mut Overlay,
    readable: &'a Buffers,
    writable: &'a Buffers,
    /// Bytes the device may write before the status.
    room: usize,
}

impl BlockRequest<'_> {
    /// What was done, or the status of a failed request.
    fn carry_out(self) -> Result<Done, u32> {
        let mut header = [0; HEADER_BYTES];
        self.readable.read(self.memory, 0, &mut header).map_err(|_| VIRTIO_BLK_S_IOERR)?;
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([a, b, c, d]) {
            VIRTIO_BLK_T_IN => self.read(sector),
            VIRTIO_BLK_T_OUT => self.write(sector),
            // The overlay is memory: what was written is as safe as it will ever be.
            VIRTIO_BLK_T_FLUSH => Ok(Done::default()),
            VIRTIO_BLK_T_GET_ID => self.identify(),
            _ => Err(VIRTIO_BLK_S_UNSUPP),
        }
    }

    fn read(self, sector: u64) -> Result<Done, u32> {
        let range = byte_range(sector, self.room)?;
        let data = self.overlay.read_checked(range).map_err(|_| VIRTIO_BLK_S_IOERR)?;
        self.writable.write(self.memory, 0, data).map_err(|_| VIRTIO_BLK_S_IOERR)?;
        Ok(Done { read: data.len(), written: 0 })
    }

    fn write(self, sector: u64) -> Result<Done, u32> {
        let length = self.readable.bytes().saturating_sub(HEADER_BYTES);
        let range = byte_range(sector, length)?;
        let (memory, readable) = (self.memory, self.readable);
        self.overlay
            .write_with(range, |at, target| {
                readable.read(memory, HEADER_BYTES + at, target).map_err(std::io::Error::other)
            })
            .map_err(|_| VIRTIO_BLK_S_IOERR)?;
        Ok(Done { read: 0, written: length })
    }

    /// The serial number, padded with zeros to 20 bytes (section 5.2.6.1).
    fn identify(self) -> Result<Done, u32> {
        let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
        for (slot, byte) in id.iter_mut().zip(SERIAL) {
            *slot = *byte;
        }
        let id = id.get(..self.room.min(id.len())).unwrap_or_default();
        self.writable.write(self.memory, 0, id).map_err(|_| VIRTIO_BLK_S_IOERR)?;
        Ok(Done { read: id.len(), written: 0 })
    }
}

/// The bytes `sector` and `length` stand for. Whole sectors only, and no more than the driver was
/// told: buffers may overlap, so guest RAM does not bound what one request could cost.
pub(super) fn byte_range(sector: u64, length: usize) -> Result<std::ops::Range<u64>, u32> {
    let length = length as u64;
    if !length.is_multiple_of(SECTOR_BYTES) || length > MAX_REQUEST_BYTES as u64 {
        return Err(VIRTIO_BLK_S_IOERR);
    }
    let start = sector.checked_mul(SECTOR_BYTES).ok_or(VIRTIO_BLK_S_IOERR)?;
    let end = start.checked_add(length).ok_or(VIRTIO_BLK_S_IOERR)?;
    Ok(start..end)
}
