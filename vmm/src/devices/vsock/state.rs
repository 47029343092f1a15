//! Capture and restore of the host's half.

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState};

use super::connection::ConnectionId;
use super::error::VsockError;
use super::muxer::Muxer;
use super::shared::Core;
use crate::arch::Named;
use crate::devices::device::MachineShape;
use crate::devices::foreign;
use crate::devices::virtio::model::ModelState;

/// Everything about a vsock device that the guest could notice: connections with their credit and
/// buffers, packets not yet sent, the port counter, queue positions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockState {
    pub(super) muxer: Muxer,
    /// Receive, transmit, event; absent before activation.
    #[serde(with = "foreign::three_queues")]
    pub(super) queues: Option<[QueueState; 3]>,
}

impl VsockState {
    /// Ports of the connections that are open, the guest's first.
    pub fn connections(&self) -> Vec<(u32, u32)> {
        self.muxer.open_ports()
    }

    /// Whether the device of a guest with this address can be in this state. A state that was
    /// read from a file has to pass this.
    pub fn is_sound(&self, guest_cid: u64) -> bool {
        self.muxer.is_sound(guest_cid)
    }

    /// Connections, and bytes in their buffers.
    pub fn size(&self) -> (usize, usize) {
        self.muxer.size()
    }

    pub(super) fn capture(core: &Core) -> Self {
        Self { muxer: core.muxer.clone(), queues: core.queue_states() }
    }

    pub(super) fn restore(&self, core: &mut Core) -> Result<(), VsockError> {
        core.check()?;
        match (&self.queues, &mut core.active) {
            (None, active) => *active = None,
            (Some(_), None) => return Err(VsockError::NotActive),
            (Some(states), Some(active)) => {
                // All three or none.
                if states.iter().any(|state| Queue::try_from(*state).is_err()) {
                    return Err(VsockError::BadState);
                }
                let queues = [&mut active.receive, &mut active.transmit, &mut active.event];
                for (queue, state) in queues.into_iter().zip(states) {
                    queue.restore(*state).map_err(|_| VsockError::BadState)?;
                }
            }
        }
        core.muxer.clone_from(&self.muxer);
        if let Some(ConnectionId(id)) = self.muxer.last_id() {
            core.host.reserve_id(id);
        }
        for port in core.muxer.backlog_ports() {
            if !core.host.listeners.contains_key(&port) {
                core.muxer.drop_backlog(port, &mut core.host);
            }
        }
        core.epoch += 1;
        core.host.wake_all();
        Ok(())
    }
}

impl ModelState for VsockState {
    fn queues(&self) -> Option<Vec<QueueState>> {
        self.queues.map(|queues| queues.to_vec())
    }

    fn check(&self, shape: MachineShape) -> Result<(), &'static str> {
        if self.is_sound(u64::from(shape.guest_cid)) {
            Ok(())
        } else {
            Err("the socket device's connections contradict each other")
        }
    }

    fn describe(&self, kind: &'static str) -> Vec<Named> {
        let (connections, bytes) = self.size();
        vec![
            (format!("{kind} queues"), format!("{:?}", self.queues)),
            (kind.to_owned(), format!("{connections} connections with {bytes} bytes waiting")),
        ]
    }
}
