//! The oracle: a machine that stands still, compared with its golden state bit for bit.

pub(crate) mod state;

use std::fmt;
use std::slice;

use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use super::{Golden, ResetError};
use crate::devices::{DeviceSet, DeviceStateError};
use crate::elapsed::ResetWindow;
use crate::kvm::Vm;
use crate::memory::PAGE_BYTES;
use state::{StateMismatch, VcpuReport};

/// One thing that is not as it was captured.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Difference {
    /// Consecutive pages of guest memory.
    Memory {
        /// Guest-physical address of the first.
        start: u64,
        /// Number of pages.
        pages: usize,
    },
    /// A part of a vCPU's state.
    Vcpu {
        /// The vCPU.
        index: usize,
        /// The part.
        part: String,
    },
    /// An interrupt controller, timer or clock.
    Machine(&'static str),
    /// A device.
    Device(&'static str),
    /// Pages written since the reset restored them.
    Written {
        /// How many.
        pages: usize,
    },
    /// Content of the disk.
    Disk {
        /// First differing byte.
        at: u64,
    },
}

/// Everything that is not as it was captured; nothing, after a good reset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences(pub Vec<Difference>);

impl Differences {
    /// True when the machine is in its golden state.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares everything. No vCPU may run, and the socket device must be quiesced. `vcpus` is what
    /// [`state::vcpu`] found, in order.
    pub(crate) fn between(
        golden: &Golden,
        vm: &Vm,
        vcpus: Vec<VcpuReport>,
        devices: &DeviceSet,
        reset: ResetWindow,
    ) -> Result<Self, ResetError> {
        let mut found = Self::default();
        found.memory(golden, vm);
        found.0.extend(Self::of_state(golden, vm, vcpus, devices, reset)?.0);
        found.disk(golden, devices)?;
        Ok(found)
    }

    /// Compares everything but the content of memory and disk. What [`Self::between`] asks for,
    /// this does too.
    pub(crate) fn of_state(
        golden: &Golden,
        vm: &Vm,
        vcpus: Vec<VcpuReport>,
        devices: &DeviceSet,
        reset: ResetWindow,
    ) -> Result<Self, ResetError> {
        let mut found = state::kvm(golden, vm, vcpus, reset)?;
        found.extend(state::devices(golden, devices)?);
        Ok(Self(found.into_iter().map(Difference::of).collect()))
    }

    fn memory(&mut self, golden: &Golden, vm: &Vm) {
        for (shape, region) in golden.memory.regions().iter().zip(vm.ram().iter()) {
            // SAFETY: the mapping belongs to the VM's RAM, has this length and is readable, and
            // nothing writes to it while the machine stands still.
            let bytes = unsafe { slice::from_raw_parts(region.as_ptr(), shape.length) };
            let start = region.start_addr().raw_value();
            let pairs = bytes.chunks(PAGE_BYTES).zip(golden.memory.bytes(shape).chunks(PAGE_BYTES));
            for (page, _) in pairs.enumerate().filter(|(_, (now, then))| now != then) {
                let address = start + (page * PAGE_BYTES) as u64;
                match self.0.last_mut() {
                    Some(Difference::Memory { start, pages })
                        if *start + (*pages * PAGE_BYTES) as u64 == address =>
                    {
                        *pages += 1;
                    }
                    _ => self.0.push(Difference::Memory { start: address, pages: 1 }),
                }
            }
        }
    }

    fn disk(&mut self, golden: &Golden, devices: &DeviceSet) -> Result<(), DeviceStateError> {
        let (Some(block), Some(image)) = (devices.block(), &golden.disk) else { return Ok(()) };
        let now = block.overlay().read(0..block.overlay().length()).unwrap_or_default();
        let then = image.read_all().map_err(DeviceStateError::Disk)?;
        if now != then {
            let at = now.iter().zip(&then).position(|(a, b)| a != b).unwrap_or(now.len());
            self.0.push(Difference::Disk { at: at as u64 });
        }
        Ok(())
    }
}

impl Difference {
    fn of(mismatch: StateMismatch) -> Self {
        match mismatch.part {
            // One number each: it says more than the register's.
            Self::Vcpu { index, part } if part.starts_with("MSR ") => {
                let part = format!("{part}: {}, was {}", mismatch.is, mismatch.was);
                Self::Vcpu { index, part }
            }
            part => part,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { start, pages } => write!(f, "{pages} pages of memory at {start:#x}"),
            Self::Vcpu { index, part } => write!(f, "vCPU {index}: {part}"),
            Self::Machine(part) => f.write_str(part),
            Self::Device(device) => write!(f, "device {device}"),
            Self::Written { pages } => write!(f, "{pages} pages written since"),
            Self::Disk { at } => write!(f, "the disk from byte {at}"),
        }
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (index, difference) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{difference}")?;
        }
        Ok(())
    }
}
