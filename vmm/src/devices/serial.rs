//! COM1: a 16550A whose output goes to the console ring.

use std::io;

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use super::Console;
use crate::devices::virtio::IrqLine;

/// Registers of COM1.
const FIRST_PORT: u16 = 0x3f8;
const LAST_PORT: u16 = 0x3ff;

struct Line(Box<dyn IrqLine>);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.pulse()
    }
}

/// The first serial port.
pub struct Com1 {
    uart: Serial<Line, NoEvents, Console>,
}

impl Com1 {
    /// Interrupt of COM1.
    pub const IRQ: u32 = 4;

    /// A port that writes to `console` and interrupts through `line`.
    pub fn new(console: Console, line: Box<dyn IrqLine>) -> Self {
        Self { uart: Serial::new(Line(line), console) }
    }

    /// True when `port` is one of this device's registers.
    pub fn owns(port: u16) -> bool {
        (FIRST_PORT..=LAST_PORT).contains(&port)
    }

    /// Reads a register.
    pub fn read(&mut self, port: u16) -> u8 {
        self.uart.read((port - FIRST_PORT) as u8)
    }

    /// Writes a register. A lost interrupt costs the guest a retry, not its output.
    pub fn write(&mut self, port: u16, value: u8) {
        let _ = self.uart.write((port - FIRST_PORT) as u8, value);
    }
}
