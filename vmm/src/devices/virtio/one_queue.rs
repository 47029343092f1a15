//! A device that has one queue and does nothing but carry out the requests in it: block, entropy.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{DescriptorChain, QueueState};

use super::model::{ModelState, VirtioModel};
use super::request_queue::{self, Completion, RequestQueue, RequestQueueState};
use super::virtqueue::QueueName;
use super::{Activation, DeviceFault, StateError, VirtioDevice};
use crate::devices::builder::ByType;
use crate::devices::device::{DeviceStateError, MachineShape};
use crate::memory::GuestRam;

/// What makes a device of one queue: its configuration, and what it does with a request.
pub trait RequestHandler: Send + Sized + 'static {
    /// [`VirtioModel::KIND`].
    const KIND: &'static str;
    /// [`VirtioModel::VERSION`].
    const VERSION: u32;
    /// The name that faults of the queue carry.
    const QUEUE: QueueName;
    /// [`VirtioDevice::device_type`].
    const DEVICE_TYPE: u32;
    /// [`VirtioDevice::features`], beside `VIRTIO_F_VERSION_1` and `VIRTIO_RING_F_EVENT_IDX`.
    const FEATURES: u64;
    /// Largest size of the queue.
    const QUEUE_SIZES: [u16; 1];

    /// [`VirtioDevice::read_config`].
    fn read_config(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    /// Carries out the request in `chain`, which may have at most `limit` descriptors.
    ///
    /// # Errors
    ///
    /// The request has no place for an answer, or the host failed: the device stops.
    fn handle(
        &mut self,
        memory: &GuestRam,
        chain: DescriptorChain<&GuestRam>,
        limit: u16,
    ) -> Result<Completion, DeviceFault>;

    /// [`VirtioModel::is_present`].
    fn is_present(_: MachineShape) -> bool {
        true
    }

    /// [`VirtioModel::create`].
    ///
    /// # Errors
    ///
    /// What the handler needs from the host is missing.
    fn create(resources: &mut ByType) -> Result<Self, String>;

    /// [`VirtioModel::hand_out`].
    fn hand_out(_: &Arc<Mutex<OneQueue<Self>>>, _: &mut ByType) {}
}

/// A device of one queue.
pub struct OneQueue<H> {
    /// What the device does with a request.
    pub handler: H,
    requests: Option<RequestQueue>,
}

/// Everything about a device of one queue that the guest could notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneQueueState {
    /// Absent before activation.
    requests: Option<RequestQueueState>,
}

impl ModelState for OneQueueState {
    fn queues(&self) -> Option<Vec<QueueState>> {
        self.requests.as_ref().map(|requests| vec![requests.queue()])
    }
}

impl<H: RequestHandler> OneQueue<H> {
    /// A device that has not been activated.
    pub fn with_handler(handler: H) -> Self {
        Self { handler, requests: None }
    }

    /// What [`Self::restore_state`] restores.
    pub fn state(&self) -> OneQueueState {
        OneQueueState { requests: self.requests.as_ref().map(RequestQueue::state) }
    }

    /// Restores the device. The transport goes first; on an error nothing has changed.
    ///
    /// # Errors
    ///
    /// The device is not active as the state wants it, or cannot have such a queue.
    pub fn restore_state(&mut self, state: &OneQueueState) -> Result<(), StateError> {
        request_queue::restore(self.requests.as_mut(), state.requests.as_ref())
    }

    fn process(&mut self) -> Result<(), DeviceFault> {
        let Self { handler, requests } = self;
        let Some(requests) = requests else { return Ok(()) };
        let limit = requests.size();
        requests.process(|memory, chain| handler.handle(memory, chain, limit))
    }
}

impl<H: RequestHandler> VirtioDevice for OneQueue<H> {
    fn device_type(&self) -> u32 {
        H::DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | H::FEATURES
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &H::QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.handler.read_config(offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceFault> {
        self.requests = Some(RequestQueue::new(H::QUEUE, activation)?);
        Ok(())
    }

    fn notify(&mut self, _: u16) -> Result<(), DeviceFault> {
        self.process()
    }

    fn continue_work(&mut self) -> Result<(), DeviceFault> {
        match &self.requests {
            Some(requests) if requests.has_more() => self.process(),
            _ => Ok(()),
        }
    }

    fn queue_states(&self) -> Vec<QueueState> {
        self.requests.iter().map(RequestQueue::position).collect()
    }

    fn reset(&mut self) {
        self.requests = None;
    }
}

impl<H: RequestHandler> VirtioModel for OneQueue<H> {
    const KIND: &'static str = H::KIND;
    const VERSION: u32 = H::VERSION;
    type State = OneQueueState;

    fn is_present(shape: MachineShape) -> bool {
        H::is_present(shape)
    }

    fn create(resources: &mut ByType) -> Result<Self, String> {
        H::create(resources).map(Self::with_handler)
    }

    fn hand_out(device: &Arc<Mutex<Self>>, handles: &mut ByType) {
        H::hand_out(device, handles);
    }

    fn capture(&self) -> OneQueueState {
        self.state()
    }

    fn restore(&mut self, state: &OneQueueState) -> Result<(), DeviceStateError> {
        self.restore_state(state).map_err(DeviceStateError::of(H::KIND))
    }

    /// Moves the queue on by one request.
    #[cfg(any(test, feature = "testing"))]
    fn corrupt(&mut self) -> Result<bool, DeviceStateError> {
        let Some(requests) = self.state().requests else { return Ok(false) };
        let state = OneQueueState { requests: Some(requests.corrupted()) };
        self.restore(&state).map(|()| true)
    }
}
