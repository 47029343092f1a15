//! Everything KVM keeps about a VM beside its vCPUs and memory.

use kvm_bindings::{
    KVM_CLOCK_TSC_STABLE, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    kvm_clock_data, kvm_irqchip, kvm_pit_state2,
};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use crate::ioctl::KvmError;

/// Interrupt controllers, timer and clock.
#[derive(Clone, Serialize, Deserialize)]
pub struct VmState {
    /// PIC master, PIC slave, I/O APIC.
    pub irqchips: [kvm_irqchip; 3],
    pub pit: kvm_pit_state2,
    /// Nanoseconds of the guest's kvmclock.
    pub clock_ns: u64,
}

/// The state of one interrupt controller as bytes.
pub fn irqchip_bytes(chip: &kvm_irqchip) -> &[u8] {
    // SAFETY: both members of the union are plain bytes and integers, the other one is exactly as
    // long as the union, and every bit pattern is valid.
    let bytes: &[std::ffi::c_char; 512] = unsafe { &chip.chip.dummy };
    // SAFETY: `c_char` and `u8` have the same size, alignment and valid values.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
}

impl VmState {
    /// Reads everything, and whether the host's time-stamp counters are the same on all processors,
    /// as KVM has it. No vCPU may run.
    ///
    /// # Errors
    ///
    /// KVM refuses to tell.
    pub fn read(vm: &VmFd) -> Result<(Self, bool), KvmError> {
        let chip = |chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            vm.get_irqchip(&mut chip).map_err(KvmError::ioctl("KVM_GET_IRQCHIP"))?;
            Ok(chip)
        };
        let irqchips = [
            chip(KVM_IRQCHIP_PIC_MASTER)?,
            chip(KVM_IRQCHIP_PIC_SLAVE)?,
            chip(KVM_IRQCHIP_IOAPIC)?,
        ];
        let pit = vm.get_pit2().map_err(KvmError::ioctl("KVM_GET_PIT2"))?;
        let clock = vm.get_clock().map_err(KvmError::ioctl("KVM_GET_CLOCK"))?;
        let state = Self { irqchips, pit, clock_ns: clock.clock };
        Ok((state, clock.flags & KVM_CLOCK_TSC_STABLE != 0))
    }

    /// Gives everything back to `vm`. No vCPU may run.
    ///
    /// # Errors
    ///
    /// KVM refuses a part. The parts before it have been written.
    pub fn restore(&self, vm: &VmFd) -> Result<(), KvmError> {
        for chip in &self.irqchips {
            vm.set_irqchip(chip).map_err(KvmError::ioctl("KVM_SET_IRQCHIP"))?;
        }
        vm.set_pit2(&self.pit).map_err(KvmError::ioctl("KVM_SET_PIT2"))?;
        // Without the flag for real time, which would let the clock jump ahead by the time that
        // passed since the capture. The guest learns wall time from its next command.
        let clock = kvm_clock_data { clock: self.clock_ns, ..Default::default() };
        vm.set_clock(&clock).map_err(KvmError::ioctl("KVM_SET_CLOCK"))
    }
}
