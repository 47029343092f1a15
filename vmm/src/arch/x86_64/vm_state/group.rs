//! What a group of the table is, and what its functions work on.

use kvm_ioctls::VmFd;

use super::VmState;
use crate::arch::Named;
use crate::elapsed::ElapsedBounds;
use crate::ioctl::KvmError;
use crate::mismatch::Mismatch;

/// One group of a VM's state: what KVM gives and takes together.
pub struct VmGroup {
    /// Reads the group into [`VmReader::state`].
    pub read: fn(&mut VmReader<'_>) -> Result<(), KvmError>,
    /// Writes the group of a state to a VM.
    pub write: fn(&VmFd, &VmState) -> Result<(), KvmError>,
    /// What differs.
    pub compare: fn(&VmComparison<'_>) -> Option<Mismatch<&'static str>>,
    /// Adds names and values.
    pub describe: fn(&VmState, &mut Vec<Named>),
}

/// A VM that is being read.
pub struct VmReader<'a> {
    pub vm: &'a VmFd,
    /// What has been read so far.
    pub state: VmState,
    /// Whether the host's counters are the same on all processors. KVM says so with the clock.
    pub tsc_is_stable: bool,
}

/// Two states of a VM that are being compared.
pub struct VmComparison<'a> {
    pub then: &'a VmState,
    pub now: &'a VmState,
    /// Bounds of the clock.
    pub clock: ElapsedBounds,
}
