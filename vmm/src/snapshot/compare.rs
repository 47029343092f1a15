//! The oracle: a machine that stands still, compared with its golden state bit for bit.

use std::fmt;
use std::slice;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use kvm_bindings::{kvm_irqchip, kvm_xsave};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use super::{Golden, ResetError};
use crate::devices::{DeviceSet, DeviceStateError};
use crate::kvm::{Vcpu, VcpuState, Vm, VmState, host_tsc, irqchip_bytes};
use crate::memory::PAGE_BYTES;

/// How much clocks of different origin may differ: a little, and a thousandth of what passed.
const CLOCK_SLACK: Duration = Duration::from_micros(500);
const CLOCK_DRIFT: u32 = 1000;
/// The current count of the local APIC's timer, which KVM computes when asked.
const APIC_CURRENT_COUNT: usize = 0x390;

/// Index of the 64-bit `XSTATE_BV` in the area, in 32-bit words.
const XSTATE_BV: usize = 512 / 4;

/// One thing that is not as it was captured.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    /// Pages that somebody has written since they were put back.
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

    /// Compares everything. No vCPU may run, all must have settled, and the socket device must be
    /// quiesced.
    pub(crate) fn between(
        golden: &Golden,
        vm: &Vm,
        vcpus: &[MutexGuard<'_, Vcpu>],
        devices: &DeviceSet,
        put_back: Option<(Instant, Instant)>,
    ) -> Result<Self, ResetError> {
        let mut found = Self::default();
        found.memory(golden, vm);
        found.0.extend(Self::of_state(golden, vm, vcpus, devices, put_back)?.0);
        found.disk(golden, devices)?;
        Ok(found)
    }

    /// Compares everything but the content of memory and disk. What [`Self::between`] asks for,
    /// this does too.
    pub(crate) fn of_state(
        golden: &Golden,
        vm: &Vm,
        vcpus: &[MutexGuard<'_, Vcpu>],
        devices: &DeviceSet,
        put_back: Option<(Instant, Instant)>,
    ) -> Result<Self, ResetError> {
        let mut found = Self::default();
        let mut counters: Vec<u64> = Vec::new();
        for (index, (vcpu, image)) in vcpus.iter().zip(&golden.vcpus).enumerate() {
            let wanted: Vec<u32> = image.state().msrs.iter().map(|msr| msr.index).collect();
            let before = Instant::now();
            let now = host_tsc();
            let passed = Passed { put_back, read: (before, Instant::now()) };
            let state = vcpu.capture(&wanted, now)?;
            let mut parts = vcpu_parts(image.state(), &state);
            if golden.tsc_goes_back
                && !passed.fits(image.state().tsc, state.tsc, vcpu.tsc_khz()? * 1000)
            {
                parts.push("TSC".to_owned());
            }
            found.0.extend(parts.into_iter().map(|part| Difference::Vcpu { index, part }));
            counters.push(state.tsc.wrapping_sub(now).wrapping_sub(image.state().tsc));
        }
        let before = Instant::now();
        let state = vm.capture()?;
        let passed = Passed { put_back, read: (before, Instant::now()) };
        found.machine(&golden.vm, &state);
        // Where the host's counters differ, KVM corrects a vCPU's whenever it changes processors.
        if vm.tsc_is_stable()? && counters.windows(2).any(|pair| pair.first() != pair.last()) {
            found.0.push(Difference::Machine("TSCs, which run apart"));
        }
        if !passed.fits(golden.vm.clock_ns, state.clock_ns, 1_000_000_000) {
            found.0.push(Difference::Machine("kvmclock"));
        }
        let state = devices.capture()?;
        let pairs = [
            ("virtio-mmio", state.transports == golden.devices.transports),
            ("serial", state.com1 == golden.devices.com1),
            ("block", state.block == golden.devices.block),
            ("entropy", state.rng == golden.devices.rng),
            ("vsock", state.vsock == golden.devices.vsock),
        ];
        let differing = pairs.iter().filter(|(_, same)| !same);
        found.0.extend(differing.map(|(device, _)| Difference::Device(device)));
        Ok(found)
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

    fn machine(&mut self, then: &VmState, now: &VmState) {
        let names = ["PIC master", "PIC slave", "I/O APIC"];
        for (name, (then, now)) in names.iter().zip(then.irqchips.iter().zip(&now.irqchips)) {
            if chip(then) != chip(now) {
                self.0.push(Difference::Machine(name));
            }
        }
        let (mut pit_then, mut pit_now) = (then.pit, now.pit);
        for pit in [&mut pit_then, &mut pit_now] {
            for channel in &mut pit.channels {
                // The host's time of the last load, not the guest's.
                channel.count_load_time = 0;
            }
        }
        if pit_then != pit_now {
            self.0.push(Difference::Machine("PIT"));
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

fn chip(chip: &kvm_irqchip) -> &[u8] {
    irqchip_bytes(chip)
}

/// Clocks run on while a machine stands still, by as much as passed since they were put back.
struct Passed {
    put_back: Option<(Instant, Instant)>,
    read: (Instant, Instant),
}

impl Passed {
    /// Whether a clock of `hertz` went on as it should from `then` to `now`. A machine that was
    /// captured and not put back yet has clocks that never stopped.
    fn fits(&self, then: u64, now: u64, hertz: u64) -> bool {
        let Some((earliest, latest)) = self.put_back else { return now >= then };
        let least = self.read.0.saturating_duration_since(latest);
        let most = self.read.1.saturating_duration_since(earliest);
        let slack = CLOCK_SLACK + most / CLOCK_DRIFT;
        let Some(ticks) = now.checked_sub(then) else { return false };
        let passed = u128::from(ticks) * 1_000_000_000 / u128::from(hertz.max(1));
        (least.saturating_sub(slack).as_nanos()..=(most + slack).as_nanos()).contains(&passed)
    }
}

fn vcpu_parts(then: &VcpuState, now: &VcpuState) -> Vec<String> {
    let mut parts = Vec::new();
    let mut check = |name: &str, same: bool| {
        if !same {
            parts.push(name.to_owned());
        }
    };
    check("run state", then.mp_state == now.mp_state);
    check("registers", then.regs == now.regs);
    check("special registers", then.sregs == now.sregs);
    check("events", then.events == now.events);
    check("extended control registers", then.xcrs == now.xcrs);
    check("debug registers", then.debug_regs == now.debug_regs);
    check("floating point and vector registers", xsave(&then.xsave) == xsave(&now.xsave));
    let apic = |state: &VcpuState| {
        let mut registers = state.lapic.regs;
        if let Some(count) = registers.get_mut(APIC_CURRENT_COUNT..APIC_CURRENT_COUNT + 4) {
            count.fill(0);
        }
        registers
    };
    check("local APIC", apic(then) == apic(now));
    check("number of MSRs", then.msrs.len() == now.msrs.len());
    for (then, now) in then.msrs.iter().zip(&now.msrs) {
        if (then.index, then.data) != (now.index, now.data) {
            parts.push(format!("MSR {:#x}: {:#x}, was {:#x}", then.index, now.data, then.data));
        }
    }
    parts
}

/// The content of the area without `XSTATE_BV`, which says which components the processor
/// believes to be in use: it may find out by itself that one holds nothing but initial values
/// (Intel SDM volume 1, 13.6). KVM writes initial values for components that are not in use.
fn xsave(area: &kvm_xsave) -> [u32; 1024] {
    let mut words = area.region;
    if let Some(in_use) = words.get_mut(XSTATE_BV..XSTATE_BV + 2) {
        in_use.fill(0);
    }
    words
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
