//! Why a machine could not be captured or reset.

use thiserror::Error;

use crate::devices::DeviceStateError;
use crate::kvm::KvmError;
use crate::memory::MemoryError;

/// Why a machine could not be captured or reset.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ResetError {
    /// KVM refused a call.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest memory could not be copied or mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Dirty pages could not be restored.
    #[error("cannot restore dirty pages: {0}")]
    Pages(#[source] std::io::Error),
    /// The state of a device could not be read or restored.
    #[error(transparent)]
    Device(#[from] DeviceStateError),
    /// The golden state belongs to a machine with another number of vCPUs.
    #[error("the golden state has {golden} vCPUs, the machine {machine}")]
    Vcpus {
        /// vCPUs in the golden state.
        golden: usize,
        /// vCPUs of the machine.
        machine: usize,
    },
    /// A timer of the guest is due, or will be in a moment. Nothing has been captured or changed: let
    /// the machine run on, and capture it later.
    #[error("a timer of the guest is due within milliseconds; let it run, and capture it later")]
    DeadlineNear,
}
