//! Capture and restore. All a running entropy device knows is where it is in its queue.

use serde::{Deserialize, Serialize};
use virtio_queue::QueueState;

use super::Rng;
use crate::devices::virtio::StateError;
use crate::devices::virtio::request_queue::{self, RequestQueueState};

/// Everything about an entropy device that the guest could notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngState {
    /// Absent before activation.
    requests: Option<RequestQueueState>,
}

impl RngState {
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

impl Rng {
    /// What [`Self::restore`] puts back.
    pub fn state(&self) -> RngState {
        RngState { requests: self.active.as_ref().map(|active| active.requests.state()) }
    }

    /// Puts the device back. The transport goes first; on an error nothing has changed.
    pub fn restore(&mut self, state: &RngState) -> Result<(), StateError> {
        let queue = self.active.as_mut().map(|active| &mut active.requests);
        request_queue::restore(queue, state.requests.as_ref())
    }
}
