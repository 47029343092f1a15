//! What a notification does: fills every buffer in the queue.

use super::device::Active;
use crate::devices::virtio::DeviceFault;
use crate::devices::virtio::chain::{Buffers, Direction};
use crate::devices::virtio::request_queue::{Completion, QueueName};
use crate::memory::GuestRam;
use rustix::rand::{GetRandomFlags, getrandom};

pub(super) const NAME: QueueName = QueueName { device: "rng", queue: 0 };

/// Most random bytes for one request. A device may fill less than it is offered (section 5.4.6),
/// and the guest's buffer sizes must not decide how long the host works.
pub(super) const MAX_REQUEST_BYTES: usize = 4096;

impl Active {
    /// Fills the buffers in the queue.
    pub(super) fn process(&mut self) -> Result<(), DeviceFault> {
        let Self { requests, buffers } = self;
        let limit = requests.size();
        requests.process(|memory, chain| {
            buffers
                .load(chain, memory, Direction::ToGuest, limit)
                .map_err(|reason| NAME.bad_chain(reason))?;
            let written = fill(memory, buffers)?;
            Ok(Completion { written, copied: written.into() })
        })
    }
}

fn fill(memory: &GuestRam, buffers: &Buffers) -> Result<u32, DeviceFault> {
    let mut random = [0; MAX_REQUEST_BYTES];
    let count = buffers.bytes().min(MAX_REQUEST_BYTES);
    let random = random.get_mut(..count).unwrap_or_default();
    let mut done = 0;
    while let Some(rest) = random.get_mut(done..).filter(|rest| !rest.is_empty()) {
        done += getrandom(rest, GetRandomFlags::empty()).map_err(|e| DeviceFault::Host {
            device: NAME.device,
            reason: format!("cannot read random bytes: {e}"),
        })?;
    }
    buffers.write(memory, 0, random).map_err(|reason| NAME.bad_chain(reason))?;
    Ok(count as u32)
}
