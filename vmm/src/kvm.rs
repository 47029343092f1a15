//! The kernel's side of a machine, as far as it is the same on every architecture: VM and memory
//! slots, vCPU threads, exits, dirty pages.

mod call;
mod dirty_ring;
mod exit;
pub(crate) mod raw;
mod thread_start;
mod vcpu;
mod vcpu_thread;
mod vm;

pub(crate) use call::{CallError, VcpuCall};
pub(crate) use dirty_ring::{Entry as DirtyEntry, reset_rings};
pub(crate) use exit::{ExitOutcome, GuestBus, run_once};
pub use thread_start::at_vcpu_thread_start;
pub(crate) use vcpu::Vcpu;
pub(crate) use vcpu_thread::{Ended, Next, VcpuControl, VcpuThread};
pub use vm::{DirtyTracking, MAX_VCPUS};
pub(crate) use vm::{Vm, VmOptions};

pub use crate::ioctl::KvmError;

use std::io;

use kvm_ioctls::Kvm;

use crate::ioctl::API_VERSION;

/// Opens `/dev/kvm` and checks its API version.
///
/// # Errors
///
/// There is no KVM, this user may not use it, or it has another version.
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
