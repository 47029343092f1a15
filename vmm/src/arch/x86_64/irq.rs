//! Interrupt lines of the in-kernel I/O APIC.

use std::io;
use std::sync::Arc;

use kvm_ioctls::VmFd;

/// One input of the in-kernel I/O APIC, driven with `KVM_IRQ_LINE`. The interrupt is in the controller
/// when the call returns, so stopping the vCPUs leaves none on its way. An irqfd may go through a work
/// queue and does not promise that.
pub struct VmIrqLine {
    vm: Arc<VmFd>,
    gsi: u32,
}

impl VmIrqLine {
    /// The line `gsi` of `vm`.
    pub fn new(vm: Arc<VmFd>, gsi: u32) -> Self {
        Self { vm, gsi }
    }

    /// Raises the line and lowers it again.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn pulse(&self) -> io::Result<()> {
        self.vm.set_irq_line(self.gsi, true)?;
        self.vm.set_irq_line(self.gsi, false)?;
        Ok(())
    }
}
