//! The device as the transport sees it: configuration, activation, notifications.

use std::sync::Arc;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{QueueState, QueueT};

use super::host::VsockHost;
use super::queue::{Active, TRANSMIT};
use super::shared::Shared;
use super::state::VsockState;
use crate::devices::builder::ByType;
use crate::devices::device::DeviceStateError;
use crate::devices::virtio::chain::Buffers;
use crate::devices::virtio::model::VirtioModel;
use crate::devices::virtio::{Activation, DeviceFault, VirtioDevice};

/// Receive, transmit, event. Linux fills the receive queue with buffers of a page each, and posts
/// eight event buffers.
const QUEUE_SIZES: [u16; 3] = [128, 128, 8];

/// The guest-facing side of a vsock device; [`VsockHost`] is the other one.
pub struct VsockDevice {
    shared: Arc<Shared>,
    guest_cid: u64,
}

impl VsockDevice {
    /// A device for a guest with this CID (at least 3), and the host's side of it.
    pub fn new(guest_cid: u64) -> (Self, VsockHost) {
        let shared = Arc::new(Shared::new(guest_cid));
        let host = VsockHost::new(Arc::clone(&shared));
        (Self { shared, guest_cid }, host)
    }
}

impl VirtioDevice for VsockDevice {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn features(&self) -> u64 {
        // No socket type bit: without one, stream sockets are implied (section 5.10.3).
        1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// `guest_cid`, 64 bits (section 5.10.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.guest_cid.to_le_bytes();
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut config = config.iter().skip(skip);
        for byte in data {
            *byte = config.next().copied().unwrap_or(0);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceFault> {
        let Ok([mut receive, mut transmit, mut event]) =
            <[_; QUEUE_SIZES.len()]>::try_from(activation.queues)
        else {
            return Err(DeviceFault::Host {
                device: "vsock",
                reason: "activated without its three queues".into(),
            });
        };
        let event_idx = activation.features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        for queue in [&mut receive, &mut transmit, &mut event] {
            queue.set_event_idx(event_idx);
        }
        let [receive, transmit, event] = Active::queues([receive, transmit, event]);
        self.shared.with(|core| {
            if core.check().is_ok() {
                core.active = Some(Active {
                    memory: activation.memory,
                    receive,
                    transmit,
                    event,
                    interrupt: activation.interrupt,
                    faults: activation.faults,
                    buffers: Buffers::default(),
                });
            }
            core.service()
        })
    }

    fn notify(&mut self, queue: u16) -> Result<(), DeviceFault> {
        self.shared.with(|core| {
            if queue == TRANSMIT && core.active.is_some() {
                core.muxer.transmit_waiting = true;
            }
            core.service().inspect_err(|fault| core.stop(&fault.to_string()))
        })
    }

    fn continue_work(&mut self) -> Result<(), DeviceFault> {
        self.shared.with(|core| core.service().inspect_err(|fault| core.stop(&fault.to_string())))
    }

    fn queue_states(&self) -> Vec<QueueState> {
        self.shared.with(|core| core.queue_states()).into_iter().flatten().collect()
    }

    fn reset(&mut self) {
        self.shared.with(|core| {
            core.active = None;
            core.muxer.forget_guest(&mut core.host);
        });
    }
}

impl VirtioModel for VsockDevice {
    const KIND: &'static str = "vsock";
    const VERSION: u32 = 1;
    type State = VsockState;

    fn create(resources: &mut ByType) -> Result<Self, String> {
        resources.take().ok_or_else(|| "its host side was not given".to_owned())
    }

    fn quiesce(&self) {
        self.shared.with(|core| core.held = true);
    }

    fn resume(&self) {
        self.shared.with_guest(|core| core.held = false);
    }

    fn capture(&self) -> VsockState {
        self.shared.with(|core| VsockState::capture(core))
    }

    fn restore(&mut self, state: &VsockState) -> Result<(), DeviceStateError> {
        self.shared.with(|core| state.restore(core)).map_err(DeviceStateError::of(Self::KIND))
    }
}
