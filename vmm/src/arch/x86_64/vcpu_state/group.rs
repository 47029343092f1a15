//! What a group of the table is, and what its functions work on.

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, Msrs, kvm_regs, kvm_sregs, kvm_vcpu_events,
};
use kvm_ioctls::VcpuFd;

use super::VcpuState;
use crate::arch::Named;
use crate::elapsed::ElapsedBounds;
use crate::ioctl::KvmError;
use crate::mismatch::Mismatch;

/// One group of a vCPU's state: what KVM gives and takes together.
pub struct VcpuGroup {
    /// Place of the group in comparisons and descriptions, which begin with what people look for
    /// first. Writing has an order of its own: that of the table.
    pub listed: u8,
    /// Reads the group into [`VcpuReader::state`].
    pub read: fn(&mut VcpuReader<'_>) -> Result<(), KvmError>,
    /// Writes the group of [`Writer::state`].
    pub write: fn(&mut Writer<'_>) -> Result<(), KvmError>,
    /// Adds what differs.
    pub compare: fn(&VcpuComparison<'_>, &mut Vec<Mismatch<String>>),
    /// Adds names and values.
    pub describe: fn(&VcpuState, &mut Vec<Named>),
}

/// The groups that KVM leaves in `kvm_run` when it is asked to.
pub type Registers = (kvm_regs, kvm_sregs, kvm_vcpu_events);

/// A vCPU that is being read.
pub struct VcpuReader<'a> {
    pub fd: &'a VcpuFd,
    /// Registers that KVM has left in `kvm_run`. Without them each group makes a call.
    pub left: Option<Registers>,
    pub msrs: MsrSource<'a>,
    /// A reading of the host's counter in ticks.
    pub host_tsc: u64,
    /// What has been read so far.
    pub state: VcpuState,
}

/// Which MSRs to read.
#[derive(Clone, Copy)]
pub enum MsrSource<'a> {
    /// Those that the vCPU has of a list of the host.
    Listed(&'a [u32]),
    /// Those that were captured.
    Prepared(&'a Msrs),
    /// The TSC first, and those that were captured.
    PreparedWithTsc(&'a Msrs),
}

/// A vCPU that is being written.
pub struct Writer<'a> {
    pub fd: &'a mut VcpuFd,
    pub state: &'a VcpuState,
    /// MSRs to write.
    pub msrs: &'a Msrs,
    /// The deadline of the local APIC's timer, if one was set.
    pub deadline: Option<&'a Msrs>,
    /// What the guest's TSC has to be ahead of the host's, in ticks. `None` when the TSC is among
    /// the MSRs.
    pub tsc_offset: Option<u64>,
}

impl Writer<'_> {
    /// Whether the machine has no other vCPU, which could send this one anything.
    pub fn alone(&self) -> bool {
        self.tsc_offset.is_none()
    }

    /// False for an application processor that the guest had not started. Such a processor does not
    /// look at staged registers until it has been started, and must not then.
    pub fn started(&self) -> bool {
        matches!(self.state.mp_state.mp_state, KVM_MP_STATE_RUNNABLE | KVM_MP_STATE_HALTED)
    }
}

/// Two states of a vCPU that are being compared.
pub struct VcpuComparison<'a> {
    pub then: &'a VcpuState,
    pub now: &'a VcpuState,
    /// Bounds of the TSC and its frequency in hertz, where the TSC can be compared.
    pub tsc: Option<(ElapsedBounds, u64)>,
}

/// What a restore is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreKind {
    /// The machine's only vCPU, which the state was captured on. The TSC is written with the other
    /// MSRs, which saves a call.
    Only,
    /// One of several vCPUs, on which the state was captured. The TSC is set by its offset to the
    /// host's counter, so that all vCPUs show the same time.
    OneOfSeveral,
    /// A new vCPU, which also gets the MSRs that its guest cannot write.
    New,
}
