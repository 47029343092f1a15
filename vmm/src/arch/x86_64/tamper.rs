//! Changes to registers that no guest made, for tests of what notices them.

use kvm_bindings::{KVM_IRQCHIP_IOAPIC, kvm_irqchip, kvm_msr_entry};
use kvm_ioctls::VmFd;

use super::msrs;
use super::vcpu::ArchVcpu;
use crate::ioctl::KvmError;

/// `KERNEL_GS_BASE`: any canonical address will do.
const MSR: u32 = 0xc000_0102;
/// The I/O APIC's entry for the keyboard, which no device here uses.
const REDIRECTION: usize = 1;

impl ArchVcpu {
    /// Changes one bit of RBX. Staged registers must have been applied: they would undo the change.
    ///
    /// # Errors
    ///
    /// KVM refuses to read or to write registers.
    pub fn flip_register(&self) -> Result<(), KvmError> {
        let mut regs = self.fd.get_regs().map_err(KvmError::ioctl("KVM_GET_REGS"))?;
        regs.rbx ^= 1;
        self.fd.set_regs(&regs).map_err(KvmError::ioctl("KVM_SET_REGS"))
    }

    /// Changes one bit of an MSR.
    ///
    /// # Errors
    ///
    /// KVM refuses to read or to write the MSR.
    pub fn flip_msr(&self) -> Result<(), KvmError> {
        for found in msrs::read(&self.fd, &[MSR])? {
            let changed = kvm_msr_entry { data: found.data ^ 1, ..found };
            msrs::write(&self.fd, &msrs::collection(&[changed])?)?;
        }
        Ok(())
    }
}

/// Changes one bit of an entry of the I/O APIC's redirection table.
///
/// # Errors
///
/// KVM refuses to read or to write the state of the I/O APIC.
pub fn flip_interrupt_controller(vm: &VmFd) -> Result<(), KvmError> {
    let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..Default::default() };
    vm.get_irqchip(&mut chip).map_err(KvmError::ioctl("KVM_GET_IRQCHIP"))?;
    // SAFETY: both members of the union are plain integers, and KVM filled in this one. Its entries
    // are, too.
    unsafe { chip.chip.ioapic.redirtbl[REDIRECTION].bits ^= 1 };
    vm.set_irqchip(&chip).map_err(KvmError::ioctl("KVM_SET_IRQCHIP"))
}
