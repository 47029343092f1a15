//! State read back from KVM and from the devices, against what was captured. What is as it was
//! costs a comparison of bytes; words are found for the rest.

use std::fmt::{Debug, Write};
use std::time::{Duration, Instant};

use kvm_bindings::{kvm_lapic_state, kvm_pit_state2, kvm_xsave};

use super::Difference;
use crate::arch::{VcpuState, VmState, host_tsc, irqchip_bytes, lapic};
use crate::devices::DeviceSet;
use crate::kvm::{KvmError, Vcpu, Vm};
use crate::snapshot::{Golden, ResetError};

/// How much clocks of different origin may differ: a little, and a thousandth of what passed.
const CLOCK_SLACK: Duration = Duration::from_micros(500);
const CLOCK_DRIFT: u32 = 1000;

/// Index of the 64-bit `XSTATE_BV` in the area, in 32-bit words.
const XSTATE_BV: usize = 512 / 4;

/// Most fields of one part that are named.
const MOST_FIELDS: usize = 4;

/// When a machine's clocks last went back to golden time: after the first moment and before the
/// second.
pub type PutBack = Option<(Instant, Instant)>;

/// A part of a machine's state that is not as it was captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlike {
    /// The part.
    pub part: Difference,
    /// What was captured.
    pub was: String,
    /// What was read.
    pub is: String,
}

/// What was found on one vCPU.
pub struct VcpuFound {
    pub unlike: Vec<Unlike>,
    /// How far its TSC is ahead of the host's, less what it showed when it was captured: the same
    /// for all vCPUs whose counters run together.
    pub ahead: u64,
}

/// Compares a vCPU, which must be parked, on its thread.
pub fn vcpu(
    golden: &Golden,
    index: usize,
    vcpu: &mut Vcpu,
    put_back: PutBack,
) -> Result<VcpuFound, KvmError> {
    let Some(image) = golden.vcpus.get(index) else {
        let part = Difference::Vcpu { index, part: "presence".into() };
        let unlike = vec![Unlike { part, was: "no such vCPU".into(), is: "there".into() }];
        return Ok(VcpuFound { unlike, ahead: 0 });
    };
    let before = Instant::now();
    let now = host_tsc();
    let state = vcpu.read_back(image, now, golden.vcpus.len() == 1)?;
    let passed = Passed { put_back, read: (before, Instant::now()) };
    let then = image.state();
    let mut unlike = Vec::new();
    vcpu_parts(then, &state, |part, was, is| {
        unlike.push(Unlike { part: Difference::Vcpu { index, part }, was, is });
    });
    if golden.tsc_goes_back && !passed.fits(then.tsc, state.tsc, vcpu.tsc_khz()? * 1000) {
        let part = Difference::Vcpu { index, part: "TSC".into() };
        unlike.push(Unlike { part, was: passed.expected(then.tsc), is: state.tsc.to_string() });
    }
    Ok(VcpuFound { unlike, ahead: state.tsc.wrapping_sub(now).wrapping_sub(then.tsc) })
}

/// Compares vCPUs, of which `vcpus` tells, and the machine they belong to: interrupt controllers,
/// timer, clocks.
pub fn kvm(
    golden: &Golden,
    vm: &Vm,
    vcpus: Vec<VcpuFound>,
    put_back: PutBack,
) -> Result<Vec<Unlike>, KvmError> {
    let ahead: Vec<u64> = vcpus.iter().map(|found| found.ahead).collect();
    let mut unlike: Vec<Unlike> = vcpus.into_iter().flat_map(|found| found.unlike).collect();
    self::vm(golden, vm, &ahead, put_back, &mut unlike)?;
    Ok(unlike)
}

/// Interrupt controllers, timer and clocks. `ahead` comes from [`vcpu`].
fn vm(
    golden: &Golden,
    vm: &Vm,
    ahead: &[u64],
    put_back: PutBack,
    unlike: &mut Vec<Unlike>,
) -> Result<(), KvmError> {
    let before = Instant::now();
    let (state, tsc_is_stable) = vm.read_back()?;
    let passed = Passed { put_back, read: (before, Instant::now()) };
    machine(&golden.vm, &state, unlike);
    // Where the host's counters differ, KVM corrects a vCPU's whenever it changes processors.
    if tsc_is_stable && ahead.windows(2).any(|pair| pair.first() != pair.last()) {
        let part = Difference::Machine("TSCs, which run apart");
        unlike.push(Unlike { part, was: "together".into(), is: format!("{ahead:?}") });
    }
    if !passed.fits(golden.vm.clock_ns, state.clock_ns, 1_000_000_000) {
        let (was, is) = (passed.expected(golden.vm.clock_ns), state.clock_ns.to_string());
        unlike.push(Unlike { part: Difference::Machine("kvmclock"), was, is });
    }
    Ok(())
}

/// Compares devices: registers, queue positions, connections. The socket device must be quiesced.
pub fn devices(golden: &Golden, devices: &DeviceSet) -> Result<Vec<Unlike>, ResetError> {
    let (then, now) = (&golden.devices, devices.capture()?);
    let mut unlike = Vec::new();
    let mut check = |device, same: bool, was: &dyn Debug, is: &dyn Debug| {
        if !same {
            let (was, is) = fields(was, is);
            unlike.push(Unlike { part: Difference::Device(device), was, is });
        }
    };
    let same = then.transports == now.transports;
    check("virtio-mmio", same, &then.transports, &now.transports);
    check("serial", then.com1 == now.com1, &then.com1, &now.com1);
    check("block", then.block == now.block, &then.block, &now.block);
    check("entropy", then.rng == now.rng, &then.rng, &now.rng);
    check("vsock", then.vsock == now.vsock, &then.vsock, &now.vsock);
    Ok(unlike)
}

fn machine(then: &VmState, now: &VmState, unlike: &mut Vec<Unlike>) {
    let names = ["PIC master", "PIC slave", "I/O APIC"];
    for (name, (then, now)) in names.iter().zip(then.irqchips.iter().zip(&now.irqchips)) {
        let (then, now) = (irqchip_bytes(then), irqchip_bytes(now));
        if then != now {
            let (was, is) = bytes(then, now);
            unlike.push(Unlike { part: Difference::Machine(name), was, is });
        }
    }
    let (pit_then, pit_now) = (guest_visible(then.pit), guest_visible(now.pit));
    if pit_then != pit_now {
        let (was, is) = fields(&pit_then, &pit_now);
        unlike.push(Unlike { part: Difference::Machine("PIT"), was, is });
    }
}

/// Without the host's time of the last load.
fn guest_visible(mut pit: kvm_pit_state2) -> kvm_pit_state2 {
    for channel in &mut pit.channels {
        channel.count_load_time = 0;
    }
    pit
}

fn vcpu_parts(then: &VcpuState, now: &VcpuState, mut report: impl FnMut(String, String, String)) {
    let mut check = |name: &str, same: bool, words: &dyn Fn() -> (String, String)| {
        if !same {
            let (was, is) = words();
            report(name.to_owned(), was, is);
        }
    };
    check("run state", then.mp_state == now.mp_state, &|| fields(&then.mp_state, &now.mp_state));
    check("registers", then.regs == now.regs, &|| fields(&then.regs, &now.regs));
    check("special registers", then.sregs == now.sregs, &|| fields(&then.sregs, &now.sregs));
    check("events", then.events == now.events, &|| fields(&then.events, &now.events));
    check("extended control registers", then.xcrs == now.xcrs, &|| fields(&then.xcrs, &now.xcrs));
    check("debug registers", then.debug_regs == now.debug_regs, &|| {
        fields(&then.debug_regs, &now.debug_regs)
    });
    check(
        "floating point and vector registers",
        xsave_parts(&then.xsave) == xsave_parts(&now.xsave),
        &|| xsave_words(&then.xsave, &now.xsave),
    );
    check("local APIC", apic_parts(&then.lapic) == apic_parts(&now.lapic), &|| {
        apic_words(&then.lapic, &now.lapic)
    });
    check("number of MSRs", then.msrs.len() == now.msrs.len(), &|| {
        (then.msrs.len().to_string(), now.msrs.len().to_string())
    });
    for (then, now) in then.msrs.iter().zip(&now.msrs) {
        if (then.index, then.data) != (now.index, now.data) {
            let name = format!("MSR {:#x}", then.index);
            report(name, format!("{:#x}", then.data), format!("{:#x}", now.data));
        }
    }
}

/// The area without `XSTATE_BV`, which says which components the processor believes to be in use:
/// it may find out by itself that one holds nothing but initial values (Intel SDM volume 1, 13.6).
/// KVM writes initial values for components that are not in use.
fn xsave_parts(area: &kvm_xsave) -> (Option<&[u32]>, Option<&[u32]>) {
    (area.region.get(..XSTATE_BV), area.region.get(XSTATE_BV + 2..))
}

fn xsave_words(then: &kvm_xsave, now: &kvm_xsave) -> (String, String) {
    let differing = then
        .region
        .iter()
        .zip(&now.region)
        .enumerate()
        .find(|(word, (then, now))| !(XSTATE_BV..XSTATE_BV + 2).contains(word) && then != now);
    differing.map_or_else(Default::default, |(word, (then, now))| {
        (format!("byte {:#x}: {then:#x}", word * 4), format!("byte {:#x}: {now:#x}", word * 4))
    })
}

/// The registers without the one that runs.
fn apic_parts(apic: &kvm_lapic_state) -> (Option<&[i8]>, Option<&[i8]>) {
    (apic.regs.get(..lapic::CURRENT_COUNT), apic.regs.get(lapic::CURRENT_COUNT + 4..))
}

fn apic_words(then: &kvm_lapic_state, now: &kvm_lapic_state) -> (String, String) {
    let pairs = lapic::registers(then).zip(lapic::registers(now));
    let (mut was, mut is) = (String::new(), String::new());
    let differing =
        pairs.filter(|((offset, then), (_, now))| then != now && *offset != lapic::CURRENT_COUNT);
    for ((offset, then), (_, now)) in differing.take(MOST_FIELDS) {
        add_field(&mut was, &format!("{offset:#x}: {then:#x}"));
        add_field(&mut is, &format!("{offset:#x}: {now:#x}"));
    }
    (was, is)
}

fn bytes(then: &[u8], now: &[u8]) -> (String, String) {
    let (mut was, mut is) = (String::new(), String::new());
    let differing = then.iter().zip(now).enumerate().filter(|(_, (then, now))| then != now);
    for (at, (then, now)) in differing.take(MOST_FIELDS) {
        add_field(&mut was, &format!("byte {at:#x}: {then:#04x}"));
        add_field(&mut is, &format!("byte {at:#x}: {now:#04x}"));
    }
    (was, is)
}

/// The fields that differ, as their types show them.
fn fields(then: &dyn Debug, now: &dyn Debug) -> (String, String) {
    let (then, now) = (format!("{then:#x?}"), format!("{now:#x?}"));
    let (mut was, mut is) = (String::new(), String::new());
    let differing = then.lines().zip(now.lines()).filter(|(then, now)| then != now);
    for (then, now) in differing.take(MOST_FIELDS) {
        add_field(&mut was, then);
        add_field(&mut is, now);
    }
    if was.is_empty() && is.is_empty() {
        // One says more than the other.
        add_field(&mut was, &format!("{} values", then.lines().count()));
        add_field(&mut is, &format!("{} values", now.lines().count()));
    }
    (was, is)
}

fn add_field(text: &mut String, field: &str) {
    let comma = if text.is_empty() { "" } else { ", " };
    // Writing to a string does not fail.
    let _ = write!(text, "{comma}{}", field.trim().trim_end_matches(','));
}

/// Clocks run on while a machine stands still, by as much as passed since they were put back.
struct Passed {
    put_back: PutBack,
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

    fn expected(&self, then: u64) -> String {
        let since = self.put_back.map(|(earliest, _)| self.read.1 - earliest);
        since.map_or(format!("{then} or more"), |since| format!("{then} {since:?} ago"))
    }
}
