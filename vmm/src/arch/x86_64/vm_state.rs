//! The state of a VM beside its vCPUs and memory: interrupt controllers, timer, clock.
//!
//! [`GROUPS`] is the one list of its groups. Reading, restoring, comparing and describing walk it.

mod clock;
mod group;
mod irqchip;
mod pit;
mod table;

use kvm_bindings::{kvm_irqchip, kvm_pit_state2};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use super::Named;
use crate::elapsed::ElapsedBounds;
use crate::ioctl::KvmError;
use crate::mismatch::Mismatch;
use group::{VmComparison, VmReader};
use table::GROUPS;

/// Interrupt controllers, timer and clock.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct VmState {
    /// PIC master, PIC slave, I/O APIC.
    irqchips: [kvm_irqchip; 3],
    pit: kvm_pit_state2,
    /// Nanoseconds of the guest's kvmclock.
    clock_ns: u64,
}

impl VmState {
    /// Reads everything, and whether the host's time-stamp counters are the same on all processors,
    /// as KVM has it. No vCPU may run.
    ///
    /// # Errors
    ///
    /// KVM refuses to tell a group.
    pub fn read(vm: &VmFd) -> Result<(Self, bool), KvmError> {
        let mut reader = VmReader { vm, state: Self::default(), tsc_is_stable: false };
        for group in &GROUPS {
            (group.read)(&mut reader)?;
        }
        Ok((reader.state, reader.tsc_is_stable))
    }

    /// Gives everything back to `vm`. No vCPU may run.
    ///
    /// # Errors
    ///
    /// KVM refuses a group. The groups before it in the table have been written.
    pub fn restore(&self, vm: &VmFd) -> Result<(), KvmError> {
        for group in &GROUPS {
            (group.write)(vm, self)?;
        }
        Ok(())
    }

    /// Refuses a state that no machine can have captured, with the reason. A state from a file may
    /// have been made by anyone.
    ///
    /// # Errors
    ///
    /// The state holds other interrupt controllers than a machine has.
    pub fn check(&self) -> Result<(), &'static str> {
        let chips = self.irqchips.iter().map(|chip| chip.chip_id);
        if chips.eq(irqchip::CHIPS) {
            Ok(())
        } else {
            Err("other interrupt controllers than there are")
        }
    }

    /// Names another interrupt controller in place of the I/O APIC.
    #[cfg(test)]
    pub fn mislabel_io_apic(&mut self) {
        self.irqchips[2].chip_id = 77;
    }

    /// Compares this captured state with `now`. The clock has to be within `clock`.
    pub fn compare(&self, now: &Self, clock: ElapsedBounds) -> Vec<Mismatch<&'static str>> {
        let comparison = VmComparison { then: self, now, clock };
        GROUPS.iter().filter_map(|group| (group.compare)(&comparison)).collect()
    }

    /// Names and values of everything, for people.
    pub fn describe(&self) -> Vec<Named> {
        let mut named = Vec::new();
        for group in &GROUPS {
            (group.describe)(self, &mut named);
        }
        named
    }
}

#[cfg(test)]
mod tests;
