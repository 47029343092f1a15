//! How a guest's driver reaches a virtio device: registers, notifications, interrupts.
//!
//! Device models know none of this; they implement [`VirtioDevice`](super::VirtioDevice). A second
//! transport is a module beside `mmio`, a variant of [`TransportState`], and a slot of its own.

mod mmio;

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use virtio_queue::QueueState;

use super::StateError;
use crate::devices::bus::BusDevice;

pub use mmio::{MmioState, MmioTransport, Slot};

/// The registers of one virtio device.
pub trait Transport: Send {
    /// Fills `data` from the register at `offset` of the device's window.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Writes `data` to the register at `offset` of the device's window.
    fn write(&mut self, offset: u64, data: &[u8]);

    /// Reads every register. No vCPU may run.
    ///
    /// # Errors
    ///
    /// [`StateError::Stopped`] for a device that has met a fault.
    fn capture(&self) -> Result<TransportState, StateError>;

    /// Restores every register and makes the device active, or not, as it was. No vCPU may run.
    ///
    /// # Errors
    ///
    /// The state fits no such device.
    fn restore(&mut self, state: &TransportState) -> Result<(), StateError>;
}

impl<T: Transport> BusDevice for Mutex<T> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
    }
}

/// Captured registers of a transport. A snapshot file names the transport by its number here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransportState {
    /// virtio-mmio.
    Mmio(MmioState),
}

impl TransportState {
    /// The transport's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mmio(_) => "virtio-mmio",
        }
    }

    /// Whether a transport can have these registers while its device has `queues`; `None` before
    /// activation. A state that was read from a file has to pass this.
    pub fn fits(&self, queues: Option<&[QueueState]>) -> bool {
        match self {
            Self::Mmio(state) => state.fits(queues),
        }
    }
}

/// What the kernel command line has to say for the guest to find the devices in the first `slots`
/// slots.
pub fn announce(slots: u32) -> Vec<String> {
    (0..slots).map(|slot| Slot(slot).announce()).collect()
}
