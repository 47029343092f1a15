//! The device as the transport sees it: configuration and activation.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueState;

use super::{Overlay, SECTOR_BYTES, queue};
use crate::devices::virtio::chain::Buffers;
use crate::devices::virtio::request_queue::RequestQueue;
use crate::devices::virtio::{Activation, DeviceFault, VirtioDevice};

const QUEUE_SIZES: [u16; 1] = [128];
/// Bytes of one data segment.
const SEGMENT_BYTES: u32 = 128 << 10;
/// Data segments of one request: the queue's length less header and status.
const SEGMENTS: u32 = QUEUE_SIZES[0] as u32 - 2;

/// Most data of one request: what the driver is told as segments of a size.
pub(super) const MAX_REQUEST_BYTES: usize = SEGMENTS as usize * SEGMENT_BYTES as usize;

/// A block device.
pub struct Block {
    pub(super) overlay: Overlay,
    pub(super) active: Option<Active>,
}

/// What exists from activation to reset.
pub(super) struct Active {
    pub requests: RequestQueue,
    pub readable: Buffers,
    pub writable: Buffers,
}

impl Block {
    /// A device whose content is `overlay`.
    pub fn new(overlay: Overlay) -> Self {
        Self { overlay, active: None }
    }

    /// The disk's content.
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// The disk's content, to be discarded. The guest must not run meanwhile.
    pub fn overlay_mut(&mut self) -> &mut Overlay {
        &mut self.overlay
    }

    /// `struct virtio_blk_config` (section 5.2.4) as far as the offered features fill it.
    fn config(&self) -> impl Iterator<Item = u8> {
        let capacity = self.overlay.length() / SECTOR_BYTES;
        capacity
            .to_le_bytes()
            .into_iter()
            .chain(SEGMENT_BYTES.to_le_bytes())
            .chain(SEGMENTS.to_le_bytes())
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_BLK_F_SIZE_MAX
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_FLUSH
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut config = self.config().skip(skip);
        for byte in data {
            *byte = config.next().unwrap_or(0);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceFault> {
        let requests = RequestQueue::new(queue::NAME, activation)?;
        let (readable, writable) = (Buffers::default(), Buffers::default());
        self.active = Some(Active { requests, readable, writable });
        Ok(())
    }

    fn notify(&mut self, _: u16) -> Result<(), DeviceFault> {
        match &mut self.active {
            Some(active) => active.process(&mut self.overlay),
            None => Ok(()),
        }
    }

    fn resume(&mut self) -> Result<(), DeviceFault> {
        match &mut self.active {
            Some(active) if active.requests.has_more() => active.process(&mut self.overlay),
            _ => Ok(()),
        }
    }

    fn queue_states(&self) -> Vec<QueueState> {
        self.active.iter().map(|active| active.requests.position()).collect()
    }

    /// The disk keeps its content, as a real one does.
    fn reset(&mut self) {
        self.active = None;
    }
}
