//! What devices are built from, and where they put themselves.

use std::any::Any;
use std::sync::Arc;

use thiserror::Error;

use super::bus::Bus;
use super::device::{Device, DeviceState};
use super::fault::FaultSink;
use super::irq::IrqLine;
use crate::memory::GuestRam;

/// A device could not be built.
#[derive(Debug, Error)]
#[error("{device}: {reason}")]
pub struct BuildError {
    /// The device.
    pub device: &'static str,
    /// What the host said.
    pub reason: String,
}

/// Values that are found by their type: what the host gives to devices, and what devices hand out.
#[derive(Default)]
pub struct ByType(Vec<Box<dyn Any>>);

impl ByType {
    /// Adds a value.
    pub fn put<T: Any>(&mut self, value: T) {
        self.0.push(Box::new(value));
    }

    /// Takes the first value of this type out.
    pub fn take<T: Any>(&mut self) -> Option<T> {
        let at = self.0.iter().position(|value| value.is::<T>())?;
        self.0.swap_remove(at).downcast().ok().map(|value| *value)
    }
}

/// Builds the devices of one machine, in the order of the list.
pub struct Builder<'a> {
    /// What the host gives. Each device takes its own.
    pub resources: ByType,
    /// Typed access to single devices, for the parts of a machine that need more than the list
    /// offers.
    pub handles: ByType,
    /// Where devices put themselves.
    pub bus: Bus,
    /// The guest's memory.
    pub ram: Arc<GuestRam>,
    /// Hears of every device that stops.
    pub faults: FaultSink,
    /// Slots of the virtio transport in use.
    pub slots: u32,
    line: &'a dyn Fn(u32) -> Box<dyn IrqLine>,
}

impl<'a> Builder<'a> {
    /// A builder for a machine with this memory. `line` makes the line to an interrupt of the
    /// platform, and `faults` hears of every device that stops.
    pub fn new(
        resources: ByType,
        ram: Arc<GuestRam>,
        line: &'a dyn Fn(u32) -> Box<dyn IrqLine>,
        faults: FaultSink,
    ) -> Self {
        let (handles, bus) = (ByType::default(), Bus::default());
        Self { resources, handles, bus, ram, faults, slots: 0, line }
    }

    /// The line to interrupt `gsi`.
    pub fn line(&self, gsi: u32) -> Box<dyn IrqLine> {
        (self.line)(gsi)
    }
}

/// A device that is wired to the platform and sits behind no transport.
pub trait PlatformDevice: Device + Sized + 'static {
    /// [`DeviceState::kind`].
    const KIND: &'static str;
    /// [`DeviceState::version`].
    const VERSION: u32;
    /// What it is captured as.
    type State: DeviceState;

    /// Builds the device and puts it on the bus.
    ///
    /// # Errors
    ///
    /// What it needs from the host is missing.
    fn build(builder: &mut Builder<'_>) -> Result<Self, String>;
}
