//! The device as the transport sees it: configuration and activation.

use std::sync::Arc;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_SEG_MAX,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::Queue;

use super::{Overlay, SECTOR_BYTES, queue};
use crate::devices::virtio::chain::Buffers;
use crate::devices::virtio::{Activation, DeviceFault, Interrupt, VirtioDevice};
use crate::memory::GuestRam;

const QUEUE_SIZES: [u16; 1] = [128];
/// Data segments of one request: the queue's length less header and status.
const SEGMENTS: u32 = QUEUE_SIZES[0] as u32 - 2;

/// A block device.
pub struct Block {
    overlay: Overlay,
    active: Option<Active>,
}

/// What exists from activation to reset.
pub(super) struct Active {
    pub memory: Arc<GuestRam>,
    pub requests: Queue,
    pub interrupt: Arc<Interrupt>,
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

    /// `struct virtio_blk_config` (section 5.2.4) as far as the offered features fill it.
    fn config(&self) -> impl Iterator<Item = u8> {
        let capacity = self.overlay.length() / SECTOR_BYTES;
        // Not offered: the largest segment.
        let size_max = 0_u32;
        capacity
            .to_le_bytes()
            .into_iter()
            .chain(size_max.to_le_bytes())
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
        let Ok([requests]) = <[_; 1]>::try_from(activation.queues) else {
            return Err(queue::NAME.broken_because("activated without its queue".into()));
        };
        self.active = Some(Active {
            memory: activation.memory,
            requests,
            interrupt: activation.interrupt,
            readable: Buffers::default(),
            writable: Buffers::default(),
        });
        Ok(())
    }

    fn notify(&mut self, _: u16) -> Result<(), DeviceFault> {
        match &mut self.active {
            Some(active) => queue::answer_all(active, &mut self.overlay),
            None => Ok(()),
        }
    }

    /// The disk keeps its content, as a real one does.
    fn reset(&mut self) {
        self.active = None;
    }
}
