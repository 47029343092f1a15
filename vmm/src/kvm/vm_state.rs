//! Everything KVM keeps about a VM beside its vCPUs and memory.

use kvm_bindings::{
    KVM_CLOCK_TSC_STABLE, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    kvm_clock_data, kvm_irqchip, kvm_pit_state2,
};
use serde::{Deserialize, Serialize};

use super::KvmError;
use super::vm::Vm;

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

impl Vm {
    /// Reads everything. No vCPU may run.
    pub fn capture(&self) -> Result<VmState, KvmError> {
        Ok(self.read_back()?.0)
    }

    /// Reads everything, and whether the host's time-stamp counters are the same on all processors,
    /// as KVM has it. No vCPU may run.
    pub fn read_back(&self) -> Result<(VmState, bool), KvmError> {
        let chip = |chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            self.fd().get_irqchip(&mut chip).map_err(KvmError::ioctl("KVM_GET_IRQCHIP"))?;
            Ok(chip)
        };
        let irqchips = [
            chip(KVM_IRQCHIP_PIC_MASTER)?,
            chip(KVM_IRQCHIP_PIC_SLAVE)?,
            chip(KVM_IRQCHIP_IOAPIC)?,
        ];
        let pit = self.fd().get_pit2().map_err(KvmError::ioctl("KVM_GET_PIT2"))?;
        let clock = self.fd().get_clock().map_err(KvmError::ioctl("KVM_GET_CLOCK"))?;
        let state = VmState { irqchips, pit, clock_ns: clock.clock };
        Ok((state, clock.flags & KVM_CLOCK_TSC_STABLE != 0))
    }

    /// Puts everything back. No vCPU may run.
    pub fn restore(&self, state: &VmState) -> Result<(), KvmError> {
        for chip in &state.irqchips {
            self.fd().set_irqchip(chip).map_err(KvmError::ioctl("KVM_SET_IRQCHIP"))?;
        }
        self.fd().set_pit2(&state.pit).map_err(KvmError::ioctl("KVM_SET_PIT2"))?;
        // Without the flag for real time, which would let the clock jump ahead by the time that
        // passed since the capture. The guest learns wall time from its next command.
        let clock = kvm_clock_data { clock: state.clock_ns, ..Default::default() };
        self.fd().set_clock(&clock).map_err(KvmError::ioctl("KVM_SET_CLOCK"))
    }
}
