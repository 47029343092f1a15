//! The time-stamp counter: the host's, and the offset that KVM gives a guest's.

use std::arch::x86_64::_rdtsc;
use std::io;

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use super::msrs;
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

/// Most by which two hosts' counters may differ in their rate and still be taken for the same, in
/// parts per million: what KVM tolerates without scaling (`kvm.tsc_tolerance_ppm`).
const TOLERANCE_PPM: u64 = 250;

/// True when a guest's timers keep their time on a host with the other frequency, both in kHz.
pub fn same_frequency(one: u64, other: u64) -> bool {
    one.abs_diff(other).saturating_mul(1_000_000) <= one.saturating_mul(TOLERANCE_PPM)
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

/// What the guest's TSC is ahead of the host's, in ticks.
///
/// # Errors
///
/// KVM refuses to tell.
pub fn offset(vcpu: &VcpuFd) -> Result<u64, KvmError> {
    offset_or(vcpu, get_attribute)
}

/// Sets what the guest's TSC is ahead of the host's. Unlike a write to the TSC's MSR, KVM takes
/// this at its word, however small the step.
///
/// # Errors
///
/// KVM refuses to set it.
pub fn set_offset(vcpu: &VcpuFd, offset: u64) -> Result<(), KvmError> {
    set_offset_or(vcpu, offset, set_attribute)
}

/// Asks for the attribute, and for the MSR where KVM has no such attribute (before Linux 5.16).
fn offset_or(
    vcpu: &VcpuFd,
    attribute: impl FnOnce(&VcpuFd) -> Result<u64, KvmError>,
) -> Result<u64, KvmError> {
    match attribute(vcpu) {
        Err(error) if is_absent(&error) => {
            let found = msrs::read(vcpu, &[msrs::TSC])?;
            let now = host_tsc();
            match found.as_slice() {
                [tsc] => Ok(tsc.data.wrapping_sub(now)),
                _ => Err(KvmError::Msr(msrs::TSC)),
            }
        }
        answer => answer,
    }
}

/// Sets the attribute, or the MSR where KVM has no such attribute.
fn set_offset_or(
    vcpu: &VcpuFd,
    offset: u64,
    attribute: impl FnOnce(&VcpuFd, u64) -> Result<(), KvmError>,
) -> Result<(), KvmError> {
    match attribute(vcpu, offset) {
        Err(error) if is_absent(&error) => {
            let value = host_tsc().wrapping_add(offset);
            msrs::write(vcpu, &msrs::collection(&msrs::tsc(value))?)
        }
        answer => answer,
    }
}

/// How kernels say that they do not know the attribute, or attributes of vCPUs at all.
fn is_absent(error: &KvmError) -> bool {
    let KvmError::Ioctl { source, .. } = error else { return false };
    matches!(source.raw_os_error(), Some(libc::ENXIO | libc::ENOTTY | libc::EINVAL))
}

/// `KVM_VCPU_TSC_OFFSET` (Documentation/virt/kvm/devices/vcpu.rst 4.1).
fn get_attribute(vcpu: &VcpuFd) -> Result<u64, KvmError> {
    let mut offset = 0_u64;
    attribute(vcpu, KVM_GET_DEVICE_ATTR(), "KVM_GET_DEVICE_ATTR", &raw mut offset)?;
    Ok(offset)
}

fn set_attribute(vcpu: &VcpuFd, mut offset: u64) -> Result<(), KvmError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T>(errno: i32) -> Result<T, KvmError> {
        let source = io::Error::from_raw_os_error(errno);
        Err(KvmError::Ioctl { ioctl: "KVM_GET_DEVICE_ATTR", source })
    }

    #[test]
    fn where_the_attribute_is_unknown_the_msr_serves() {
        let Ok(kvm) = crate::kvm::open() else { return };
        let vm = kvm.create_vm().unwrap();
        vm.create_irq_chip().unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        if !can_be_moved(&vcpu).unwrap() {
            println!("this KVM keeps the host's counter: only that the MSR is used is seen");
        }
        for errno in [libc::ENXIO, libc::ENOTTY, libc::EINVAL] {
            let (found, asked) = (offset_or(&vcpu, |_| refused(errno)), offset(&vcpu));
            let apart = found.unwrap().wrapping_sub(asked.unwrap()).cast_signed();
            // The MSR is read a moment before the host's counter.
            assert!(apart.unsigned_abs() < 1 << 36, "{apart}");
            set_offset_or(&vcpu, 0, |_, _| refused(errno)).unwrap();
        }
        assert!(offset_or(&vcpu, |_| refused(libc::EPERM)).is_err());
        assert!(set_offset_or(&vcpu, 0, |_, _| refused(libc::EPERM)).is_err());
    }

    #[test]
    fn counters_of_one_rate_differ_by_what_a_calibration_errs() {
        assert!(same_frequency(2_600_000, 2_600_000));
        assert!(same_frequency(2_600_000, 2_600_649));
        assert!(!same_frequency(2_600_000, 2_600_651));
        assert!(!same_frequency(2_600_000, 2_000_000));
        assert!(!same_frequency(0, 1));
    }
}
