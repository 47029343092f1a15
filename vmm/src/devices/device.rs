//! What every device of a machine can do, whatever the guest reaches it by.

use std::any::Any;
use std::fmt::Debug;

use thiserror::Error;

use super::state_error::StateError;
use crate::arch::Named;
use crate::mismatch::Mismatch;

/// What decides which devices a machine has, and what their states may hold.
#[derive(Debug, Clone, Copy)]
pub struct MachineShape {
    /// The machine has a disk.
    pub has_disk: bool,
    /// vsock address of the guest.
    pub guest_cid: u32,
}

/// One device of a machine. The device's own lock is inside: every method takes `&self`.
///
/// A reset calls [`Device::restore`] once for each device. That call neither allocates nor decodes
/// more than the device itself needs: the golden state keeps its typed form behind [`DeviceState`].
pub trait Device: Send + Sync {
    /// Keeps host threads away from guest memory. On return none reaches it for this device until
    /// [`Device::resume`].
    fn quiesce(&self) {}

    /// Undoes [`Device::quiesce`] and does the work that has gathered since.
    fn resume(&self) {}

    /// Reads everything about the device that its guest could notice. No vCPU may run and the
    /// device must be quiesced.
    ///
    /// # Errors
    ///
    /// A device that has stopped has no state worth going back to.
    fn capture(&self) -> Result<Box<dyn DeviceState>, DeviceStateError>;

    /// Restores what [`Device::capture`] read. No vCPU may run and the device must be quiesced.
    /// Guest memory is restored before this and interrupt controllers after it: the device may
    /// raise its interrupt meanwhile.
    ///
    /// # Errors
    ///
    /// `state` is of another kind of device, or one that this device cannot be in.
    fn restore(&self, state: &dyn DeviceState) -> Result<(), DeviceStateError>;

    /// Changes the device's state behind its guest's back. False when there is nothing to change.
    ///
    /// # Errors
    ///
    /// The device cannot be captured or restored.
    #[cfg(any(test, feature = "testing"))]
    fn corrupt(&self) -> Result<bool, DeviceStateError> {
        Ok(false)
    }
}

/// A captured state of one device.
pub trait DeviceState: Any + Debug + Send + Sync {
    /// Names the kind of device in snapshot files, errors and mismatches.
    fn kind(&self) -> &'static str;

    /// Version of the form that [`DeviceState::encode`] writes. It goes up with every change of
    /// that form.
    fn version(&self) -> u32;

    /// The state in the form of snapshot files.
    ///
    /// # Errors
    ///
    /// The state cannot be serialised.
    fn encode(&self) -> Result<Vec<u8>, postcard::Error>;

    /// The parts in which `now` is not as this state. Empty when both are equal.
    fn compare(&self, now: &dyn DeviceState) -> Vec<Mismatch<&'static str>>;

    /// Names and values for a person. Two states that differ may have the same description.
    fn describe(&self) -> Vec<Named>;

    /// Refuses a state that no device of such a machine can have been captured in. A state that
    /// was read from a file has to pass this before it is used.
    ///
    /// # Errors
    ///
    /// What contradicts what.
    fn check(&self, shape: MachineShape) -> Result<(), &'static str>;
}

/// Why devices could not be captured or restored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DeviceStateError {
    /// A device cannot be in the state, or has none worth keeping.
    #[error("{device}: {source}")]
    Device {
        /// The device.
        device: &'static str,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The disk's overlay.
    #[error("disk: {0}")]
    Disk(#[source] std::io::Error),
}

impl DeviceStateError {
    /// For `map_err`: an error of this device.
    pub fn of<E: std::error::Error + Send + Sync + 'static>(
        device: &'static str,
    ) -> impl Fn(E) -> Self {
        move |source| Self::Device { device, source: Box::new(source) }
    }
}

/// `state` in the type that a device keeps.
///
/// # Errors
///
/// It is the state of another device.
pub fn typed<'s, T: Any>(
    device: &'static str,
    state: &'s dyn DeviceState,
) -> Result<&'s T, DeviceStateError> {
    let state: &dyn Any = state;
    state.downcast_ref().ok_or_else(|| DeviceStateError::of(device)(StateError::Kind))
}
