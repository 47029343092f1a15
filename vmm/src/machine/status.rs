//! What can be said about a machine.

use std::fmt;
use std::time::Duration;

use crate::arch::VcpuStatus;
use crate::devices::virtio::DeviceFault;

/// What a machine is doing, as KVM sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineState {
    /// Configured, nothing runs.
    Created,
    /// Guest code runs; the vCPUs as they were a moment ago.
    Running(Vec<VcpuStatus>),
    /// No guest code runs.
    Paused(Vec<VcpuStatus>),
    /// A reset failed half way, for this reason. Only a reset that succeeds helps.
    Poisoned(String),
    /// Over.
    Stopped(StopReason),
}

/// Why a machine is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// [`Machine::shutdown`](super::Machine::shutdown) or drop.
    Shutdown,
    /// [`Machine::boot`](super::Machine::boot) failed.
    BootFailed(String),
    /// The guest kernel panicked, with its own words.
    GuestPanic(String),
    /// A triple fault without a panic message.
    TripleFault,
    /// The guest asked for a reset.
    GuestReset,
    /// A vCPU could not go on.
    VcpuError(String),
    /// A device met input it cannot recover from.
    DeviceFault(DeviceFault),
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown => f.write_str("the machine was shut down"),
            Self::BootFailed(reason) => write!(f, "the machine did not start: {reason}"),
            Self::GuestPanic(line) => write!(f, "the guest kernel panicked: {line}"),
            Self::TripleFault => f.write_str("the guest met a triple fault"),
            Self::GuestReset => f.write_str("the guest reset itself"),
            Self::VcpuError(reason) => write!(f, "a vCPU failed: {reason}"),
            Self::DeviceFault(fault) => write!(f, "a device stopped: {fault}"),
        }
    }
}

/// What each part of a boot cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BootTimings {
    /// Mapping guest RAM.
    pub memory: Duration,
    /// Creating the KVM VM with its interrupt controllers and memory slots.
    pub kvm_setup: Duration,
    /// Copying the kernel and writing the boot structures.
    pub kernel_load: Duration,
    /// Creating the devices.
    pub devices: Duration,
    /// Creating vCPUs and their threads.
    pub vcpus: Duration,
    /// From the call of `boot` to the first entry into the guest; zero until that happened.
    pub first_run: Duration,
}

impl BootTimings {
    /// Every part with its name, in the order of the fields.
    pub fn named(&self) -> Vec<(&'static str, Duration)> {
        let Self { memory, kvm_setup, kernel_load, devices, vcpus, first_run } = *self;
        vec![
            ("memory", memory),
            ("kvm_setup", kvm_setup),
            ("kernel_load", kernel_load),
            ("devices", devices),
            ("vcpus", vcpus),
            ("first_run", first_run),
        ]
    }
}
