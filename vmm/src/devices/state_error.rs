//! What a device says of a state that it cannot be in.

use thiserror::Error;

/// Why a device could not be captured or restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StateError {
    /// It met a fault.
    #[error("the device has stopped; start a new machine")]
    Stopped,
    /// The state describes queues this device cannot have.
    #[error("the state's queues do not fit the device; capture it again")]
    Queue,
    /// The transport has to be restored first: it decides whether the device is active.
    #[error("the device and its state disagree on activation; restore the transport first")]
    Activation,
    /// Registers that no device can have.
    #[error("the state's registers fit no device; capture it again")]
    Registers,
    /// The state is of another device.
    #[error("the state is of another device; capture it again")]
    Kind,
}
