//! Calls of KVM: the version of its interface, and why a call failed.

use std::io;

use thiserror::Error;

use crate::kernel_call;

/// `KVM_API_VERSION` (api.rst 4.1). A kernel that returns another number is older than 2.6.22.
pub(crate) const API_VERSION: i32 = 12;

/// Why a call of KVM failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KvmError {
    /// This host has no `/dev/kvm`.
    #[error(
        "/dev/kvm does not exist: switch on VT-x or AMD-V in the firmware and load kvm_intel or \
         kvm_amd; in a virtual machine, enable nested virtualisation"
    )]
    Missing,
    /// This user may not open `/dev/kvm`.
    #[error(
        "no permission for /dev/kvm: add this user to the group that owns it (usually `kvm`) \
         and log in again"
    )]
    Permission,
    /// `/dev/kvm` could not be opened for another reason.
    #[error("cannot open /dev/kvm: {0}")]
    Open(io::Error),
    /// KVM has an API version that this crate cannot use.
    #[error("KVM speaks API version {0}, this program needs {API_VERSION}: update the kernel")]
    ApiVersion(i32),
    /// An ioctl failed.
    #[error("{ioctl} failed: {source}")]
    Ioctl {
        /// Name of the ioctl.
        ioctl: &'static str,
        /// The error that the kernel returned.
        source: io::Error,
    },
    /// The guest wrote more pages than a dirty ring holds, and KVM did not stop the vCPU in time.
    #[error(
        "a dirty ring was written on after it was full, so dirty pages are unknown: use the dirty \
         log on this host, and end this machine"
    )]
    DirtyRingOverran,
    /// `KVM_SET_MSRS` stopped early: the MSR it stopped at is not supported here.
    #[error("KVM_SET_MSRS refused MSR {0:#x}")]
    Msr(u32),
    /// KVM does not give out an MSR that a guest may write and every processor has, so no reset could
    /// restore it.
    #[error(
        "KVM does not give out MSR {0:#x}, which a guest can write: no reset could restore it on \
         this host; update the kernel"
    )]
    MsrMissing(u32),
}

impl KvmError {
    /// Names the ioctl that failed. Serves `map_err`.
    pub(crate) fn ioctl(ioctl: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |e| Self::Ioctl { ioctl, source: io::Error::from_raw_os_error(e.errno()) }
    }
}

/// Makes a call of KVM, which a recording takes down under the name of the ioctl.
///
/// # Errors
///
/// KVM refused the call.
pub(crate) fn call<T>(
    ioctl: &'static str,
    call: impl FnOnce() -> Result<T, kvm_ioctls::Error>,
) -> Result<T, KvmError> {
    kernel_call::timed(ioctl, call).map_err(KvmError::ioctl(ioctl))
}
