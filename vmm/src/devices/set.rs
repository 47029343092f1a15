//! All devices of a machine as one: captured together, put back together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_queue::QueueState;
use vm_superio::SerialState;

use super::block::{Block, BlockState, DiskImage};
use super::bus::Bus;
use super::foreign;
use super::rng::{Rng, RngState};
use super::virtio::{MmioState, StateError};
use super::vsock::{VsockError, VsockHost, VsockState};

/// Every device of a machine.
pub struct DeviceSet {
    pub bus: Arc<Bus>,
    pub block: Option<Arc<Mutex<Block>>>,
    pub rng: Arc<Mutex<Rng>>,
    pub vsock: VsockHost,
}

/// Everything about a machine's devices that its guest could notice. The disk's content is in the
/// image beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    /// Registers of the virtio transports, in slot order.
    pub transports: Vec<MmioState>,
    /// The serial port.
    #[serde(with = "foreign::SerialForm")]
    pub com1: SerialState,
    /// The disk's request queue.
    pub block: Option<BlockState>,
    /// The entropy device's request queue.
    pub rng: RngState,
    /// Connections and queues of the socket device.
    pub vsock: VsockState,
}

impl DeviceState {
    /// Finds states that no machine can have captured: they come from a file, which may have been
    /// made by anybody.
    pub fn check(&self, has_disk: bool, guest_cid: u32) -> Result<(), &'static str> {
        let block = self.block.as_ref().map(|block| block.queue().map(|queue| vec![queue]));
        if block.is_some() != has_disk {
            return Err("the devices and the disk disagree on whether there is a disk");
        }
        let vsock = self.vsock.queues().map(|queues| queues.to_vec());
        let rng = self.rng.queue().map(|queue| vec![queue]);
        let queues: Vec<Option<Vec<QueueState>>> = block.into_iter().chain([vsock, rng]).collect();
        let fit = self.transports.len() == queues.len()
            && self.transports.iter().zip(&queues).all(|(t, queues)| t.fits(queues.as_deref()));
        if !fit {
            return Err("a device and its registers disagree on its queues");
        }
        if !self.vsock.is_sound(u64::from(guest_cid)) {
            return Err("the socket device's connections contradict each other");
        }
        Ok(())
    }
}

/// Why devices could not be captured or put back.
#[derive(Debug, Error)]
pub enum DeviceStateError {
    /// A virtio device.
    #[error("{device}: {source}")]
    Virtio {
        /// The device.
        device: &'static str,
        /// What is wrong.
        source: StateError,
    },
    /// The socket device.
    #[error("vsock: {0}")]
    Vsock(#[from] VsockError),
    /// The disk's overlay.
    #[error("disk: {0}")]
    Disk(#[source] std::io::Error),
}

fn named(device: &'static str) -> impl Fn(StateError) -> DeviceStateError {
    move |source| DeviceStateError::Virtio { device, source }
}

impl DeviceSet {
    /// Reads everything. No vCPU may run and the socket device must be quiesced.
    pub fn capture(&self) -> Result<DeviceState, DeviceStateError> {
        let (transports, com1) = self.bus.capture().map_err(named("virtio-mmio"))?;
        Ok(DeviceState {
            transports,
            com1,
            block: self.block().map(|block| block.state()),
            rng: self.rng().state(),
            vsock: self.vsock.capture(),
        })
    }

    /// Makes what the disk holds now its base, for golden states to share.
    pub fn freeze_disk(&self) -> Result<Option<Arc<DiskImage>>, DeviceStateError> {
        self.block()
            .map(|mut block| block.overlay_mut().freeze())
            .transpose()
            .map_err(DeviceStateError::Disk)
    }

    /// Puts everything back but the disk's content. Guest memory has to be back already, and
    /// interrupt controllers come after this: a device may raise its interrupt meanwhile.
    pub fn restore(&self, state: &DeviceState) -> Result<(), DeviceStateError> {
        self.bus.restore(&state.transports, &state.com1).map_err(named("virtio-mmio"))?;
        if let (Some(mut block), Some(state)) = (self.block(), &state.block) {
            block.restore(state).map_err(named("block"))?;
        }
        self.rng().restore(&state.rng).map_err(named("entropy"))?;
        self.vsock.restore(&state.vsock)?;
        Ok(())
    }

    /// Forgets every write to the disk; returns how many blocks that were.
    pub fn discard_disk_writes(&self) -> Result<usize, DeviceStateError> {
        match self.block() {
            Some(mut block) => block.overlay_mut().discard().map_err(DeviceStateError::Disk),
            None => Ok(0),
        }
    }

    /// Moves the first device that has a queue, disk before entropy, one request on behind its
    /// guest's back. False when there is none.
    #[cfg(any(test, feature = "testing"))]
    pub fn move_a_queue(&self) -> Result<bool, DeviceStateError> {
        if let Some(mut block) = self.block() {
            let state = block.state();
            if state.queue().is_some() {
                return block.restore(&state.corrupted()).map(|()| true).map_err(named("block"));
            }
        }
        let mut rng = self.rng();
        let state = rng.state();
        let has_queue = state.queue().is_some();
        rng.restore(&state.corrupted()).map(|()| has_queue).map_err(named("entropy"))
    }

    /// The disk.
    pub fn block(&self) -> Option<MutexGuard<'_, Block>> {
        self.block.as_ref().map(|block| block.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn rng(&self) -> MutexGuard<'_, Rng> {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
