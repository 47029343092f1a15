//! What a VM of this architecture has beside memory: interrupt controllers, timer, reserved pages.

use kvm_bindings::{
    KVM_CAP_PMU_CAPABILITY, KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_PMU_CAP_DISABLE, kvm_enable_cap,
    kvm_pit_config,
};
use kvm_ioctls::VmFd;

use super::layout;
use crate::ioctl::KvmError;

/// Gives KVM the pages it needs for itself. Both addresses must be set before the first vCPU exists
/// (api.rst 4.14, 4.60).
///
/// # Errors
///
/// KVM refuses an address.
pub fn reserve_pages(vm: &VmFd) -> Result<(), KvmError> {
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
        .map_err(KvmError::ioctl("KVM_SET_IDENTITY_MAP_ADDR"))?;
    vm.set_tss_address(layout::KVM_TSS).map_err(KvmError::ioctl("KVM_SET_TSS_ADDR"))
}

/// Switches performance counters off, which no reset restores, and has KVM give out a triple fault
/// that is on its way, each where KVM can. Must come before the first vCPU.
///
/// # Errors
///
/// KVM refuses what it says it can do.
pub fn close_side_doors(vm: &VmFd) -> Result<(), KvmError> {
    let can = |capability: u32, what: u32| {
        let answer = vm.check_extension_raw(capability.into());
        u32::try_from(answer).is_ok_and(|answer| answer & what != 0)
    };
    if can(KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE) {
        enable(vm, "KVM_ENABLE_CAP(PMU_CAPABILITY)", KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE)?;
    }
    if can(KVM_CAP_X86_TRIPLE_FAULT_EVENT, u32::MAX) {
        let ioctl = "KVM_ENABLE_CAP(X86_TRIPLE_FAULT_EVENT)";
        enable(vm, ioctl, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1)?;
    }
    Ok(())
}

fn enable(vm: &VmFd, ioctl: &'static str, cap: u32, argument: u32) -> Result<(), KvmError> {
    let args = [argument.into(), 0, 0, 0];
    let capability = kvm_enable_cap { cap, args, ..Default::default() };
    vm.enable_cap(&capability).map_err(KvmError::ioctl(ioctl))
}

/// Creates the PIC, the I/O APIC, the PIT, and a local APIC for every vCPU to come.
///
/// # Errors
///
/// KVM refuses one of them.
pub fn create_interrupt_controllers(vm: &VmFd) -> Result<(), KvmError> {
    vm.create_irq_chip().map_err(KvmError::ioctl("KVM_CREATE_IRQCHIP"))?;
    // Without port 0x61: before Linux 6.0, KVM does not give out its speaker bit.
    vm.create_pit2(kvm_pit_config::default()).map_err(KvmError::ioctl("KVM_CREATE_PIT2"))
}
