//! The queue of a device that only answers requests, worked through without trusting it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_queue::{DescriptorChain, QueueState};

use super::virtqueue::{QueueName, Virtqueue, signal};
use super::{Activation, DeviceFault, Interrupt, StateError};
use crate::devices::foreign;
use crate::memory::GuestRam;

/// Bytes moved between two exits to the guest, give or take one request.
pub const MAX_BYTES_AT_ONCE: u64 = 16 << 20;

/// What one request came to.
#[derive(Debug, Clone, Copy)]
pub struct Completion {
    /// Bytes written to the guest's buffers: the used length.
    pub written: u32,
    /// Bytes copied in either direction: what the request cost.
    pub copied: u64,
}

/// The only queue of an active device.
pub struct RequestQueue {
    queue: Virtqueue,
    memory: Arc<GuestRam>,
    interrupt: Arc<Interrupt>,
    /// Requests were left in the ring because enough had been done in one go.
    more: bool,
}

/// A queue as it can be captured and restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestQueueState {
    #[serde(with = "foreign::QueueForm")]
    queue: QueueState,
    more: bool,
}

impl RequestQueueState {
    /// Positions in the ring.
    pub fn queue(&self) -> QueueState {
        self.queue
    }

    /// One request further on than it is: a state that is wrong.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn corrupted(mut self) -> Self {
        self.queue.next_avail = self.queue.next_avail.wrapping_add(1);
        self
    }
}

impl RequestQueue {
    /// Takes over a device's one queue.
    pub fn new(name: QueueName, activation: Activation) -> Result<Self, DeviceFault> {
        let Ok([queue]) = <[_; 1]>::try_from(activation.queues) else {
            return Err(name.broken_because("activated without its one queue".into()));
        };
        let Activation { memory, interrupt, .. } = activation;
        Ok(Self { queue: Virtqueue::new(name, queue), memory, interrupt, more: false })
    }

    /// Entries of the ring: also the most descriptors a chain may have (virtio 1.2, section
    /// 2.7.5.3.1).
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Answers the requests in the ring, then raises one interrupt if the driver wants it.
    ///
    /// Ends early after as many requests as the ring is long, or [`MAX_BYTES_AT_ONCE`]: a guest
    /// that refills the ring while it is emptied would otherwise keep its vCPU thread here for
    /// ever. Nothing is lost by that: an interrupt is raised whatever the driver wants, and when
    /// the driver acknowledges it, the device goes on if [`Self::has_more`]. The driver need not
    /// notify again, and would not: it has announced those requests already.
    pub fn process(
        &mut self,
        mut handle: impl FnMut(&GuestRam, DescriptorChain<&GuestRam>) -> Result<Completion, DeviceFault>,
    ) -> Result<(), DeviceFault> {
        let memory = Arc::clone(&self.memory);
        let mut requests = u32::from(self.queue.size());
        let mut bytes = MAX_BYTES_AT_ONCE;
        self.more = loop {
            self.queue.disable_notification(&memory)?;
            while requests > 0 && bytes > 0 {
                let Some(chain) = self.queue.pop(&memory)? else { break };
                let head = chain.head_index();
                let Completion { written, copied } = handle(&memory, chain)?;
                self.queue.add_used(&memory, head, written)?;
                requests -= 1;
                bytes = bytes.saturating_sub(copied);
            }
            if !self.queue.enable_notification(&memory)? {
                break false;
            }
            if requests == 0 || bytes == 0 {
                break true;
            }
            // A ring that shows a request only while it is not taken must not go on for ever.
            requests -= 1;
        };
        signal([&mut self.queue], &memory, &self.interrupt, self.more)
    }

    /// True when [`Self::process`] ended early the last time.
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// Positions in the ring.
    pub fn position(&self) -> QueueState {
        self.queue.state()
    }

    /// What [`Self::restore`] restores.
    pub fn state(&self) -> RequestQueueState {
        RequestQueueState { queue: self.queue.state(), more: self.more }
    }

    /// Puts the queue back where it was. On an error nothing has changed.
    pub fn restore(&mut self, state: &RequestQueueState) -> Result<(), StateError> {
        self.queue.restore(state.queue)?;
        self.more = state.more;
        Ok(())
    }
}

/// Puts back the queue of a device that may or may not be active.
pub fn restore(
    active: Option<&mut RequestQueue>,
    state: Option<&RequestQueueState>,
) -> Result<(), StateError> {
    match (active, state) {
        (Some(queue), Some(state)) => queue.restore(state),
        (None, None) => Ok(()),
        (Some(_), None) | (None, Some(_)) => Err(StateError::Activation),
    }
}

#[cfg(test)]
mod tests;
