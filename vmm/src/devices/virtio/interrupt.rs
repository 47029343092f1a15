//! A device's interrupt line and its `InterruptStatus` register.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::devices::irq::IrqLine;

/// `InterruptStatus` bit 0: the device used a buffer (section 4.2.2).
const USED_BUFFER: u32 = 1;
/// `InterruptStatus` bit 1: the device configuration changed (section 4.2.2).
const CONFIG_CHANGE: u32 = 2;

/// A device's interrupt. Edge triggered: the status register tells the driver why.
pub struct Interrupt {
    status: AtomicU32,
    line: Box<dyn IrqLine>,
}

impl Interrupt {
    /// An interrupt with an empty status register.
    pub fn new(line: Box<dyn IrqLine>) -> Self {
        Self { status: AtomicU32::new(0), line }
    }

    /// Tells the driver that buffers were used.
    ///
    /// # Errors
    ///
    /// As [`IrqLine::pulse`]. The bit of the status register is set all the same.
    pub fn signal_used(&self) -> io::Result<()> {
        self.signal(USED_BUFFER)
    }

    /// Tells the driver that configuration or device status changed.
    ///
    /// # Errors
    ///
    /// As [`IrqLine::pulse`]. The bit of the status register is set all the same.
    pub fn signal_config(&self) -> io::Result<()> {
        self.signal(CONFIG_CHANGE)
    }

    /// The `InterruptStatus` register.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    /// Replaces the `InterruptStatus` register: a device reset, or a restored snapshot.
    pub fn set_status(&self, status: u32) {
        self.status.store(status, Ordering::Release);
    }

    /// A write of `InterruptACK`: clears the given bits.
    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::AcqRel);
    }

    fn signal(&self, bit: u32) -> io::Result<()> {
        self.status.fetch_or(bit, Ordering::AcqRel);
        self.line.pulse()
    }
}
