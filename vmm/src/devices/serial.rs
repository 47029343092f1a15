//! COM1: a 16550A whose output goes to the console ring.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, SerialState, Trigger};

use super::builder::{Builder, PlatformDevice};
use super::bus::BusDevice;
use super::console::Console;
use super::device::{Device, DeviceState, DeviceStateError, MachineShape, typed};
use super::foreign;
use super::irq::IrqLine;
use super::state_error::StateError;
use crate::arch::{Named, layout};
use crate::mismatch::{self, Mismatch};

#[derive(Clone)]
struct LineTrigger(Arc<dyn IrqLine>);

impl Trigger for LineTrigger {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.pulse()
    }
}

/// The first serial port.
pub struct Com1 {
    uart: Serial<LineTrigger, NoEvents, Console>,
    console: Console,
    line: LineTrigger,
}

impl Com1 {
    /// Interrupt of COM1.
    pub const IRQ: u32 = layout::COM1_IRQ;

    /// A port that writes to `console` and interrupts through `line`.
    pub fn new(console: Console, line: Arc<dyn IrqLine>) -> Self {
        let line = LineTrigger(line);
        Self { uart: Serial::new(line.clone(), console.clone()), console, line }
    }

    /// Every register. What was written to the console is the host's and not part of it.
    pub fn state(&self) -> SerialState {
        self.uart.state()
    }

    /// Restores every register. No vCPU may run.
    pub fn restore(&mut self, state: &SerialState) -> Result<(), StateError> {
        if self.uart.state() != *state {
            let (line, console) = (self.line.clone(), self.console.clone());
            self.uart = Serial::from_state(state, line, NoEvents, console)
                .map_err(|_| StateError::Registers)?;
        }
        Ok(())
    }

    /// Reads the register at `offset`.
    pub fn read(&mut self, offset: u8) -> u8 {
        self.uart.read(offset)
    }

    /// Writes the register at `offset`. A lost interrupt costs the guest a retry, not its output.
    pub fn write(&mut self, offset: u8, value: u8) {
        let _ = self.uart.write(offset, value);
    }
}

impl BusDevice for Mutex<Com1> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut com1 = self.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in data {
            *byte = com1.read(offset as u8);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut com1 = self.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in data {
            com1.write(offset as u8, *byte);
        }
    }
}

/// The serial port as one device of the list.
pub struct SerialPort(Arc<Mutex<Com1>>);

impl SerialPort {
    fn com1(&self) -> MutexGuard<'_, Com1> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PlatformDevice for SerialPort {
    const KIND: &'static str = "serial";
    const VERSION: u32 = 1;
    type State = SerialPortState;

    fn build(builder: &mut Builder<'_>) -> Result<Self, String> {
        let console = builder.resources.take::<Console>().ok_or("no console was given")?;
        let com1 = Arc::new(Mutex::new(Com1::new(console, builder.line(Com1::IRQ).into())));
        let ports = layout::COM1_PORTS;
        let count = ports.end() - ports.start() + 1;
        builder.bus.add_ports(*ports.start(), count, Arc::clone(&com1) as _);
        #[cfg(test)]
        builder.handles.put(Arc::clone(&com1));
        Ok(Self(com1))
    }
}

impl Device for SerialPort {
    fn capture(&self) -> Result<Box<dyn DeviceState>, DeviceStateError> {
        Ok(Box::new(SerialPortState(self.com1().state())))
    }

    fn restore(&self, state: &dyn DeviceState) -> Result<(), DeviceStateError> {
        let SerialPortState(state) = typed(Self::KIND, state)?;
        self.com1().restore(state).map_err(DeviceStateError::of(Self::KIND))
    }
}

/// Every register of the serial port.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct SerialPortState(#[serde(with = "foreign::SerialForm")] SerialState);

impl DeviceState for SerialPortState {
    fn kind(&self) -> &'static str {
        SerialPort::KIND
    }

    fn version(&self) -> u32 {
        SerialPort::VERSION
    }

    fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_stdvec(self)
    }

    fn compare(&self, now: &dyn DeviceState) -> Vec<Mismatch<&'static str>> {
        let Ok(now) = typed::<Self>(SerialPort::KIND, now) else {
            let words = (SerialPort::KIND.to_owned(), now.kind().to_owned());
            return vec![Mismatch::new("device list", words)];
        };
        mismatch::of_values(SerialPort::KIND, &self.0, &now.0).into_iter().collect()
    }

    fn describe(&self) -> Vec<Named> {
        vec![(SerialPort::KIND.to_owned(), format!("{:?}", self.0))]
    }

    fn check(&self, _: MachineShape) -> Result<(), &'static str> {
        Ok(())
    }
}
