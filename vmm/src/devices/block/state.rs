//! Capture and restore of the device. The disk's content is not part of it: golden content is the
//! base, and [`Overlay::discard`](super::Overlay::discard) goes back to it.

use serde::{Deserialize, Serialize};
use virtio_queue::QueueState;

use super::Block;
use crate::devices::virtio::StateError;
use crate::devices::virtio::request_queue::{self, RequestQueueState};

/// Everything about a block device, beside its content, that the guest could notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockState {
    /// Absent before activation.
    requests: Option<RequestQueueState>,
}

impl BlockState {
    /// Where the device is in its queue; `None` before activation.
    pub fn queue(&self) -> Option<QueueState> {
        self.requests.as_ref().map(RequestQueueState::queue)
    }

    /// One request further on than it is: a state that is wrong.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn corrupted(self) -> Self {
        Self { requests: self.requests.map(RequestQueueState::corrupted) }
    }
}

impl Block {
    /// What [`Self::restore`] puts back.
    pub fn state(&self) -> BlockState {
        BlockState { requests: self.active.as_ref().map(|active| active.requests.state()) }
    }

    /// Puts the device back. The transport goes first; on an error nothing has changed.
    pub fn restore(&mut self, state: &BlockState) -> Result<(), StateError> {
        let queue = self.active.as_mut().map(|active| &mut active.requests);
        request_queue::restore(queue, state.requests.as_ref())
    }
}
