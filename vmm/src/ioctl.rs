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

/// Tries of a call that a signal interrupts.
const MAX_TRIES: u32 = 100;

/// Makes a call of KVM that a signal can interrupt, again until it is not interrupted: a stop signal, a
/// freezer or a debugger is enough (`KVM_CREATE_VM` takes all locks of this process's memory).
///
/// # Errors
///
/// KVM refused the call, or each of many tries was interrupted.
pub(crate) fn retried<T>(
    ioctl: &'static str,
    mut call: impl FnMut() -> Result<T, kvm_ioctls::Error>,
) -> Result<T, KvmError> {
    let mut tries = 1;
    loop {
        match call() {
            Err(error) if error.errno() == libc::EINTR && tries < MAX_TRIES => tries += 1,
            done => return done.map_err(KvmError::ioctl(ioctl)),
        }
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn an_interrupted_call_is_made_again_but_not_for_ever() {
        let calls = Cell::new(0);
        let interrupted = |until: u32, errno: i32| {
            calls.set(0);
            retried("KVM_CREATE_VM", || {
                calls.set(calls.get() + 1);
                if calls.get() > until { Ok(()) } else { Err(kvm_ioctls::Error::new(errno)) }
            })
        };
        assert!(interrupted(3, libc::EINTR).is_ok());
        assert_eq!(calls.get(), 4);
        assert!(interrupted(u32::MAX, libc::EINTR).is_err());
        assert_eq!(calls.get(), MAX_TRIES);
        assert!(interrupted(1, libc::ENOMEM).is_err(), "no other error is one to try again");
        assert_eq!(calls.get(), 1);
    }
}
