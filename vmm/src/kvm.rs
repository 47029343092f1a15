//! The kernel's side of the machine: capability probe, VM and vCPUs, CPUID template.

mod cpuid;
mod dirty_ring;
mod exit;
mod irq;
mod msrs;
mod probe;
pub(crate) mod raw;
mod thread_start;
mod vcpu;
mod vcpu_state;
mod vcpu_thread;
mod vm;
mod vm_state;

pub(crate) use cpuid::CpuidTemplate;
pub(crate) use dirty_ring::{Entry as DirtyEntry, reset_rings};
pub(crate) use exit::{ExitOutcome, run_once};
pub(crate) use irq::VmIrqLine;
pub(crate) use msrs::list as msr_list;
pub use probe::{Capability, HostProbe, KvmKind, probe};
pub use thread_start::at_vcpu_thread_start;
pub use vcpu::{MpState, VcpuStatus};
pub(crate) use vcpu::{Vcpu, VcpuRole};
pub(crate) use vcpu_state::{VcpuImage, VcpuState, host_tsc};
pub(crate) use vcpu_thread::{Next, VcpuControl, VcpuThread};
pub use vm::DirtyTracking;
pub(crate) use vm::{Vm, VmOptions};
pub(crate) use vm_state::{VmState, irqchip_bytes};

use std::io;

use kvm_ioctls::Kvm;
use thiserror::Error;

/// `KVM_API_VERSION` (api.rst 4.1): anything else is a kernel older than 2.6.22.
const API_VERSION: i32 = 12;

/// What KVM refused.
#[derive(Debug, Error)]
pub enum KvmError {
    /// There is no KVM here.
    #[error(
        "/dev/kvm does not exist: switch on VT-x or AMD-V in the firmware and load kvm_intel or \
         kvm_amd; in a virtual machine, enable nested virtualisation"
    )]
    Missing,
    /// KVM is there but not for this user.
    #[error(
        "no permission for /dev/kvm: add this user to the group that owns it (usually `kvm`) \
         and log in again"
    )]
    Permission,
    /// `/dev/kvm` could not be opened for another reason.
    #[error("cannot open /dev/kvm: {0}")]
    Open(io::Error),
    /// An unusable API version.
    #[error("KVM speaks API version {0}, this program needs {API_VERSION}: update the kernel")]
    ApiVersion(i32),
    /// An ioctl failed.
    #[error("{ioctl} failed: {source}")]
    Ioctl {
        /// Name of the ioctl.
        ioctl: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// More pages were written than a dirty ring holds, and KVM did not stop the vCPU in time.
    #[error(
        "a dirty ring was written on after it was full, so dirty pages are unknown: use the dirty \
         log on this host, and end this machine"
    )]
    DirtyRingOverran,
    /// `KVM_SET_MSRS` stopped early: the MSR it stopped at is not supported here.
    #[error("KVM_SET_MSRS refused MSR {0:#x}")]
    Msr(u32),
}

impl KvmError {
    /// For `map_err`: names the ioctl that failed.
    pub(crate) fn ioctl(ioctl: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |e| Self::Ioctl { ioctl, source: io::Error::from_raw_os_error(e.errno()) }
    }
}

/// Opens `/dev/kvm` and checks its API version.
pub(crate) fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|e| match e.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => KvmError::Missing,
        libc::EACCES | libc::EPERM => KvmError::Permission,
        errno => KvmError::Open(io::Error::from_raw_os_error(errno)),
    })?;
    match kvm.get_api_version() {
        API_VERSION => Ok(kvm),
        other => Err(KvmError::ApiVersion(other)),
    }
}
