//! Why an operation on a machine failed.

use std::time::Duration;

use thiserror::Error;

use super::config::ConfigError;
use crate::boot::BootError;
use crate::kvm::KvmError;
use crate::memory::MemoryError;
use crate::snapshot::ResetError;

/// Why an operation on a [`Machine`](super::Machine) failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest RAM could not be set up.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The kernel could not be prepared.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A device could not be set up.
    #[error("cannot set up {device}: {reason}")]
    Device {
        /// The device.
        device: &'static str,
        /// What failed.
        reason: String,
    },
    /// The machine could not be captured or reset.
    #[error(transparent)]
    Reset(#[from] ResetError),
    /// There was no moment to capture the machine at.
    #[error("the guest was not idle at any moment within {limit:?}; it runs on")]
    NotIdle {
        /// How long that was awaited.
        limit: Duration,
    },
    /// There is nothing to go back to.
    #[error("the machine has no golden state; capture one first")]
    NotCaptured,
    /// There is a golden state already.
    #[error("the machine has a golden state already; fork it, or boot another machine")]
    AlreadyCaptured,
    /// The operation does not fit the machine's state.
    #[error("cannot {operation} a machine that is {state}")]
    WrongState {
        /// What was asked.
        operation: &'static str,
        /// What the machine is.
        state: &'static str,
    },
    /// Memory, disk or page tables could not be read to be checked or copied.
    #[error("cannot read {what} of the machine: {reason}")]
    Unreadable {
        /// What was to be read.
        what: &'static str,
        /// What failed.
        reason: String,
    },
    /// Tampering was asked for where there is nothing to tamper with.
    #[cfg(any(test, feature = "testing"))]
    #[error("cannot tamper with the machine: {0}")]
    Tamper(String),
    /// A vCPU did not leave the guest in time. The machine cannot be trusted any more: shut it
    /// down.
    #[error("vCPU {index} did not stop within {limit:?}; shut the machine down")]
    VcpuStuck {
        /// The vCPU.
        index: usize,
        /// How long it was given.
        limit: Duration,
    },
}
