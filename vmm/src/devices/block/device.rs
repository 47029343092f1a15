//! The disk as the list of devices and the transport see it.

use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::DescriptorChain;

use super::request::{self, QUEUE_SIZE, RequestBuffers, SEGMENT_BYTES, SEGMENTS};
use super::{DiskImage, Overlay, SECTOR_BYTES};
use crate::devices::builder::ByType;
use crate::devices::device::MachineShape;
use crate::devices::virtio::DeviceFault;
use crate::devices::virtio::one_queue::{OneQueue, RequestHandler};
use crate::devices::virtio::request_queue::Completion;
use crate::devices::virtio::virtqueue::QueueName;
use crate::memory::GuestRam;

/// A block device.
pub type Block = OneQueue<Disk>;

/// The host's side of a block device. The disk keeps its content when the driver resets it.
pub struct Disk {
    overlay: Overlay,
    buffers: RequestBuffers,
}

impl OneQueue<Disk> {
    /// A device whose content is `overlay`.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn new(overlay: Overlay) -> Self {
        Self::with_handler(Disk { overlay, buffers: RequestBuffers::default() })
    }

    /// The disk's content.
    pub fn overlay(&self) -> &Overlay {
        &self.handler.overlay
    }

    /// The disk's content, to be changed. The guest must not run meanwhile.
    pub fn overlay_mut(&mut self) -> &mut Overlay {
        &mut self.handler.overlay
    }
}

impl Disk {
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

impl RequestHandler for Disk {
    const KIND: &'static str = "block";
    const VERSION: u32 = 1;
    const QUEUE: QueueName = request::NAME;
    const DEVICE_TYPE: u32 = VIRTIO_ID_BLOCK;
    const FEATURES: u64 =
        1 << VIRTIO_BLK_F_SIZE_MAX | 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_FLUSH;
    const QUEUE_SIZES: [u16; 1] = [QUEUE_SIZE];

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut config = self.config().skip(skip);
        for byte in data {
            *byte = config.next().unwrap_or(0);
        }
    }

    fn handle(
        &mut self,
        memory: &GuestRam,
        chain: DescriptorChain<&GuestRam>,
        limit: u16,
    ) -> Result<Completion, DeviceFault> {
        self.buffers.process(&mut self.overlay, memory, chain, limit)
    }

    fn is_present(shape: MachineShape) -> bool {
        shape.has_disk
    }

    fn create(resources: &mut ByType) -> Result<Self, String> {
        let image = resources.take::<Arc<DiskImage>>().ok_or("no disk image was given")?;
        let overlay = Overlay::new(image).map_err(|e| e.to_string())?;
        Ok(Self { overlay, buffers: RequestBuffers::default() })
    }

    fn hand_out(device: &Arc<Mutex<OneQueue<Self>>>, handles: &mut ByType) {
        handles.put(Arc::clone(device));
    }
}
