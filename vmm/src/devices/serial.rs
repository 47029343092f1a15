//! COM1: a 16550A whose output goes to the console ring.

use std::io;
use std::sync::Arc;

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, SerialState, Trigger};

use super::Console;
use crate::arch::layout;
use crate::devices::virtio::{IrqLine, StateError};

#[derive(Clone)]
struct Line(Arc<dyn IrqLine>);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.pulse()
    }
}

/// The first serial port.
pub struct Com1 {
    uart: Serial<Line, NoEvents, Console>,
    console: Console,
    line: Line,
}

impl Com1 {
    /// Interrupt of COM1.
    pub const IRQ: u32 = layout::COM1_IRQ;

    /// A port that writes to `console` and interrupts through `line`.
    pub fn new(console: Console, line: Arc<dyn IrqLine>) -> Self {
        let line = Line(line);
        Self { uart: Serial::new(line.clone(), console.clone()), console, line }
    }

    /// True when `port` is one of this device's registers.
    pub fn owns(port: u16) -> bool {
        layout::COM1_PORTS.contains(&port)
    }

    /// Every register. What was written to the console is the host's and not part of it.
    pub fn state(&self) -> SerialState {
        self.uart.state()
    }

    /// Puts every register back. No vCPU may run.
    pub fn restore(&mut self, state: &SerialState) -> Result<(), StateError> {
        if self.uart.state() != *state {
            let (line, console) = (self.line.clone(), self.console.clone());
            self.uart = Serial::from_state(state, line, NoEvents, console)
                .map_err(|_| StateError::Registers)?;
        }
        Ok(())
    }

    /// Reads a register.
    pub fn read(&mut self, port: u16) -> u8 {
        self.uart.read((port - layout::COM1_PORTS.start()) as u8)
    }

    /// Writes a register. A lost interrupt costs the guest a retry, not its output.
    pub fn write(&mut self, port: u16, value: u8) {
        let _ = self.uart.write((port - layout::COM1_PORTS.start()) as u8, value);
    }
}
