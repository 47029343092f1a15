//! The time-stamp counter: the host's, and the offset that KVM gives a guest's.

use std::arch::x86_64::_rdtsc;
use std::io;

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use crate::ioctl::KvmError;
use crate::kernel_call;

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

/// Reads the host's time-stamp counter, in ticks. One reading serves all vCPUs of a machine, so that
/// their counters stay equal.
pub fn host_tsc() -> u64 {
    // SAFETY: RDTSC reads a counter and exists on every x86-64 processor.
    unsafe { _rdtsc() }
}

/// True where KVM can give the guest another counter than the host's. Some KVMs accept the request
/// and ignore it.
///
/// # Errors
///
/// KVM refuses to read or to set the offset.
pub fn can_be_moved(vcpu: &VcpuFd) -> Result<bool, KvmError> {
    let before = offset(vcpu)?;
    let moved = before ^ (1 << 40);
    set_offset(vcpu, moved)?;
    let found = offset(vcpu)?;
    set_offset(vcpu, before)?;
    Ok(found == moved)
}

/// What the guest's TSC is ahead of the host's (`KVM_VCPU_TSC_OFFSET`,
/// Documentation/virt/kvm/devices/vcpu.rst 4.1).
pub fn offset(vcpu: &VcpuFd) -> Result<u64, KvmError> {
    let mut offset = 0_u64;
    attribute(vcpu, KVM_GET_DEVICE_ATTR(), "KVM_GET_DEVICE_ATTR", &raw mut offset)?;
    Ok(offset)
}

/// Sets what the guest's TSC is ahead of the host's. Unlike a write to the TSC's MSR, KVM takes
/// this at its word, however small the step.
pub fn set_offset(vcpu: &VcpuFd, mut offset: u64) -> Result<(), KvmError> {
    attribute(vcpu, KVM_SET_DEVICE_ATTR(), "KVM_SET_DEVICE_ATTR", &raw mut offset)
}

fn attribute(
    vcpu: &VcpuFd,
    request: libc::c_ulong,
    ioctl: &'static str,
    value: *mut u64,
) -> Result<(), KvmError> {
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: value as u64,
        flags: 0,
    };
    // SAFETY: the descriptor is a vCPU, and `value` points to the u64 that this attribute is.
    let call = || unsafe { ioctl_with_ref(vcpu, request, &attribute) };
    let result = kernel_call::timed(ioctl, call);
    if result == 0 {
        Ok(())
    } else {
        Err(KvmError::Ioctl { ioctl, source: io::Error::last_os_error() })
    }
}
