//! ioctls that `kvm-ioctls` does not wrap on x86, or wraps with an allocation per call.

use std::io;

use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr, kvm_dirty_log,
    kvm_dirty_log__bindgen_ty_1,
};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use super::KvmError;

ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

/// Bits in one word of a dirty bitmap.
const WORD_BITS: u64 = 64;
const PAGE_BYTES: u64 = 4096;

/// Words of a dirty bitmap for a slot of `bytes` bytes.
pub fn dirty_words(bytes: u64) -> usize {
    bytes.div_ceil(PAGE_BYTES).div_ceil(WORD_BITS) as usize
}

/// `KVM_GET_DIRTY_LOG` (api.rst 4.8): reads **and clears** the log of a slot of `bytes` bytes.
/// `bitmap` is overwritten; bit 0 of word 0 is the slot's first page.
pub fn get_dirty_log(vm: &VmFd, slot: u32, bytes: u64, bitmap: &mut [u64]) -> Result<(), KvmError> {
    let failed = |source| KvmError::Ioctl { ioctl: "KVM_GET_DIRTY_LOG", source };
    if bitmap.len() != dirty_words(bytes) {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    let log = kvm_dirty_log {
        slot,
        padding1: 0,
        __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 { dirty_bitmap: bitmap.as_mut_ptr().cast() },
    };
    // SAFETY: the descriptor is a VM, and KVM writes one bit per page of the slot, rounded up to
    // whole 64-bit words, which is the length just checked.
    let result = unsafe { ioctl_with_ref(vm, KVM_GET_DIRTY_LOG(), &log) };
    if result == 0 { Ok(()) } else { Err(failed(io::Error::last_os_error())) }
}

/// What the guest's TSC is ahead of the host's (`KVM_VCPU_TSC_OFFSET`,
/// Documentation/virt/kvm/devices/vcpu.rst 4.1).
pub fn tsc_offset(vcpu: &VcpuFd) -> Result<u64, KvmError> {
    let mut offset = 0_u64;
    tsc_attribute(vcpu, KVM_GET_DEVICE_ATTR(), "KVM_GET_DEVICE_ATTR", &raw mut offset)?;
    Ok(offset)
}

/// Sets what the guest's TSC is ahead of the host's. Unlike a write to the TSC's MSR, KVM takes
/// this at its word, however small the step.
pub fn set_tsc_offset(vcpu: &VcpuFd, mut offset: u64) -> Result<(), KvmError> {
    tsc_attribute(vcpu, KVM_SET_DEVICE_ATTR(), "KVM_SET_DEVICE_ATTR", &raw mut offset)
}

fn tsc_attribute(
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
    let result = unsafe { ioctl_with_ref(vcpu, request, &attribute) };
    if result == 0 {
        Ok(())
    } else {
        Err(KvmError::Ioctl { ioctl, source: io::Error::last_os_error() })
    }
}
