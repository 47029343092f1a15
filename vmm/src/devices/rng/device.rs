//! Fills every buffer in the queue with random bytes. The device has no configuration.

use rustix::rand::{GetRandomFlags, getrandom};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_queue::DescriptorChain;

use crate::devices::builder::ByType;
use crate::devices::virtio::DeviceFault;
use crate::devices::virtio::chain::{Buffers, Direction};
use crate::devices::virtio::one_queue::{OneQueue, RequestHandler};
use crate::devices::virtio::request_queue::Completion;
use crate::devices::virtio::virtqueue::QueueName;
use crate::memory::GuestRam;

/// Most random bytes for one request. A device may fill less than it is offered (section 5.4.6),
/// and the guest's buffer sizes must not decide how long the host works.
pub(super) const MAX_REQUEST_BYTES: usize = 4096;

/// An entropy device.
pub type Rng = OneQueue<Entropy>;

/// The host's side of an entropy device.
#[derive(Default)]
pub struct Entropy {
    buffers: Buffers,
}

#[cfg(any(test, feature = "fuzzing"))]
impl OneQueue<Entropy> {
    /// A device that has not been activated.
    pub fn new() -> Self {
        Self::with_handler(Entropy::default())
    }
}

impl RequestHandler for Entropy {
    const KIND: &'static str = "entropy";
    const VERSION: u32 = 1;
    const QUEUE: QueueName = QueueName { device: "rng", queue: 0 };
    const DEVICE_TYPE: u32 = VIRTIO_ID_RNG;
    const FEATURES: u64 = 0;
    const QUEUE_SIZES: [u16; 1] = [16];

    fn handle(
        &mut self,
        memory: &GuestRam,
        chain: DescriptorChain<&GuestRam>,
        limit: u16,
    ) -> Result<Completion, DeviceFault> {
        self.buffers
            .load(chain, memory, Direction::ToGuest, limit)
            .map_err(|reason| Self::QUEUE.bad_chain(reason))?;
        let written = fill(memory, &self.buffers)?;
        Ok(Completion { written, copied: written.into() })
    }

    fn create(_: &mut ByType) -> Result<Self, String> {
        Ok(Self::default())
    }
}

fn fill(memory: &GuestRam, buffers: &Buffers) -> Result<u32, DeviceFault> {
    let mut random = [0; MAX_REQUEST_BYTES];
    let count = buffers.bytes().min(MAX_REQUEST_BYTES);
    let random = random.get_mut(..count).unwrap_or_default();
    let mut done = 0;
    while let Some(rest) = random.get_mut(done..).filter(|rest| !rest.is_empty()) {
        done += getrandom(rest, GetRandomFlags::empty()).map_err(|e| DeviceFault::Host {
            device: Entropy::QUEUE.device,
            reason: format!("cannot read random bytes: {e}"),
        })?;
    }
    buffers.write(memory, 0, random).map_err(|reason| Entropy::QUEUE.bad_chain(reason))?;
    Ok(count as u32)
}
