//! What a VM of this architecture has beside memory: interrupt controllers, timer, reserved pages.

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
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

/// Creates the PIC, the I/O APIC, the PIT, and a local APIC for every vCPU to come.
///
/// # Errors
///
/// KVM refuses one of them.
pub fn create_interrupt_controllers(vm: &VmFd) -> Result<(), KvmError> {
    vm.create_irq_chip().map_err(KvmError::ioctl("KVM_CREATE_IRQCHIP"))?;
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(pit).map_err(KvmError::ioctl("KVM_CREATE_PIT2"))
}
