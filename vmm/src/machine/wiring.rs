//! Where KVM's side of a machine meets the devices' side.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::arch::VmIrqLine;
use crate::devices::Bus;
use crate::devices::virtio::IrqLine;
use crate::kvm::GuestBus;

/// The bus of a machine, and its reset line.
#[derive(Clone)]
pub struct Wiring {
    pub bus: Arc<Bus>,
    /// Set when the guest pulls the reset line.
    pub reset: Arc<AtomicBool>,
}

impl GuestBus for Wiring {
    fn mmio_read(&self, address: u64, data: &mut [u8]) {
        self.bus.mmio_read(address, data);
    }

    fn mmio_write(&self, address: u64, data: &[u8]) {
        self.bus.mmio_write(address, data);
    }

    fn pio_read(&self, port: u16, data: &mut [u8]) {
        self.bus.pio_read(port, data);
    }

    fn pio_write(&self, port: u16, data: &[u8]) {
        self.bus.pio_write(port, data);
    }

    fn reset_line_pulled(&self) -> bool {
        self.reset.load(Ordering::Acquire)
    }
}

impl IrqLine for VmIrqLine {
    fn pulse(&self) -> io::Result<()> {
        Self::pulse(self)
    }
}
