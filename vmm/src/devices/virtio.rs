//! What every virtio device has in common: the device trait, its interrupt, its failure latch.
//!
//! Register and status names follow the Virtual I/O Device specification 1.2.

pub(crate) mod chain;
mod fault;
mod interrupt;
pub mod model;
pub(crate) mod one_queue;
pub(crate) mod request_queue;
#[cfg(test)]
pub(crate) mod test_driver;
pub(crate) mod transport;
pub(crate) mod virtqueue;

use std::sync::Arc;

use virtio_queue::{Queue, QueueState};

use crate::memory::GuestRam;

pub use super::fault::{DeviceFault, FaultSink};
pub use super::irq::IrqLine;
pub use super::state_error::StateError;
pub use fault::FaultLatch;
pub use interrupt::Interrupt;

/// What the transport hands to a device when the driver sets `DRIVER_OK`.
pub struct Activation {
    /// Guest RAM, to be reached through [`vm_memory::Bytes`] only, so that writes are tracked.
    pub memory: Arc<GuestRam>,
    /// The configured queues, in the order of [`VirtioDevice::queue_max_sizes`]. Every queue has
    /// passed `QueueT::is_valid`.
    pub queues: Vec<Queue>,
    /// The device's interrupt.
    pub interrupt: Arc<Interrupt>,
    /// Where the device reports a queue or request it cannot trust any more.
    pub faults: Arc<FaultLatch>,
    /// Feature bits the driver accepted: a subset of [`VirtioDevice::features`].
    pub features: u64,
}

/// A device behind a virtio transport.
///
/// All methods run on the vCPU thread that touched the register, under the transport's lock.
pub trait VirtioDevice: Send {
    /// Device ID (section 5 of the specification): 2 block, 4 entropy, 19 socket.
    fn device_type(&self) -> u32;

    /// Feature bits offered to the driver. `VIRTIO_F_VERSION_1` must be among them.
    fn features(&self) -> u64;

    /// Largest size of each queue; its length is the number of queues.
    fn queue_max_sizes(&self) -> &[u16];

    /// Reads device configuration space. Bytes past its end read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Takes over the queues. An error makes the transport set `DEVICE_NEEDS_RESET`.
    ///
    /// # Errors
    ///
    /// The queues cannot be trusted, or the host failed.
    fn activate(&mut self, activation: Activation) -> Result<(), DeviceFault>;

    /// Handles a notification of `queue`. Never waits. An error stops the device: the transport
    /// raises the fault and drops every later notification until the driver resets the device.
    ///
    /// # Errors
    ///
    /// A ring or request cannot be trusted, or the host failed.
    fn notify(&mut self, queue: u16) -> Result<(), DeviceFault>;

    /// Goes on with work that a notification left undone to bound its time. Called when the driver
    /// acknowledges an interrupt, so a device with work left has to have raised one.
    ///
    /// # Errors
    ///
    /// As [`VirtioDevice::notify`].
    fn continue_work(&mut self) -> Result<(), DeviceFault> {
        Ok(())
    }

    /// The queues with their positions, for a capture; empty before activation, and for devices
    /// that capture their queues themselves.
    fn queue_states(&self) -> Vec<QueueState> {
        Vec::new()
    }

    /// Returns to the state before activation, dropping queues and requests in flight.
    fn reset(&mut self);
}
