//! The device as the transport sees it. It has no configuration.

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueState;

use super::queue;
use crate::devices::virtio::chain::Buffers;
use crate::devices::virtio::request_queue::RequestQueue;
use crate::devices::virtio::{Activation, DeviceFault, VirtioDevice};

const QUEUE_SIZES: [u16; 1] = [16];

/// An entropy device.
#[derive(Default)]
pub struct Rng {
    pub(super) active: Option<Active>,
}

/// What exists from activation to reset.
pub(super) struct Active {
    pub requests: RequestQueue,
    pub buffers: Buffers,
}

impl Rng {
    /// A device that has not been activated.
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceFault> {
        let requests = RequestQueue::new(queue::NAME, activation)?;
        self.active = Some(Active { requests, buffers: Buffers::default() });
        Ok(())
    }

    fn notify(&mut self, _: u16) -> Result<(), DeviceFault> {
        self.active.as_mut().map_or(Ok(()), Active::process)
    }

    fn resume(&mut self) -> Result<(), DeviceFault> {
        match &mut self.active {
            Some(active) if active.requests.has_more() => active.process(),
            _ => Ok(()),
        }
    }

    fn queue_states(&self) -> Vec<QueueState> {
        self.active.iter().map(|active| active.requests.position()).collect()
    }

    fn reset(&mut self) {
        self.active = None;
    }
}
