//! Names for everything in the state of a vCPU and of the parts around it.

use kvm_bindings::{kvm_dtable, kvm_irqchip, kvm_segment, kvm_xsave};

use super::lapic;
use super::vcpu_state::VcpuState;
use super::vm_state::{VmState, irqchip_bytes};

/// A name and a value.
pub type Named = (String, String);

/// Bytes of vector and floating point state shown as one value.
const ROW: usize = 16;

/// All registers of a vCPU.
pub fn of_vcpu(state: &VcpuState) -> Vec<Named> {
    let mut named = Vec::new();
    let mut put = |name: String, value: String| named.push((name, value));
    put("run state".into(), state.mp_state.mp_state.to_string());
    let regs = &state.regs;
    let general = [
        ("rax", regs.rax),
        ("rbx", regs.rbx),
        ("rcx", regs.rcx),
        ("rdx", regs.rdx),
        ("rsi", regs.rsi),
        ("rdi", regs.rdi),
        ("rsp", regs.rsp),
        ("rbp", regs.rbp),
        ("r8", regs.r8),
        ("r9", regs.r9),
        ("r10", regs.r10),
        ("r11", regs.r11),
        ("r12", regs.r12),
        ("r13", regs.r13),
        ("r14", regs.r14),
        ("r15", regs.r15),
        ("rip", regs.rip),
        ("rflags", regs.rflags),
    ];
    let special = &state.sregs;
    let control = [
        ("cr0", special.cr0),
        ("cr2", special.cr2),
        ("cr3", special.cr3),
        ("cr4", special.cr4),
        ("cr8", special.cr8),
        ("efer", special.efer),
        ("apic base", special.apic_base),
        ("tsc", state.tsc),
        ("dr6", state.debug_regs.dr6),
        ("dr7", state.debug_regs.dr7),
    ];
    for (name, value) in general.iter().chain(&control) {
        put((*name).to_owned(), format!("{value:#x}"));
    }
    for (index, value) in state.debug_regs.db.iter().enumerate() {
        put(format!("dr{index}"), format!("{value:#x}"));
    }
    let segments = [
        ("cs", &special.cs),
        ("ds", &special.ds),
        ("es", &special.es),
        ("fs", &special.fs),
        ("gs", &special.gs),
        ("ss", &special.ss),
        ("tr", &special.tr),
        ("ldt", &special.ldt),
    ];
    for (name, value) in segments {
        put(name.to_owned(), segment(value));
    }
    put("gdt".into(), table(&special.gdt));
    put("idt".into(), table(&special.idt));
    put("interrupt bitmap".into(), format!("{:x?}", special.interrupt_bitmap));
    for xcr in state.xcrs.xcrs.iter().take(state.xcrs.nr_xcrs as usize) {
        put(format!("xcr{}", xcr.xcr), format!("{:#x}", xcr.value));
    }
    put("events".into(), format!("{:?}", state.events));
    for msr in &state.msrs {
        put(msr_name(msr.index), format!("{:#x}", msr.data));
    }
    named.extend(vectors(&state.xsave));
    for (offset, value) in lapic::registers(&state.lapic) {
        named.push((lapic_name(offset / lapic::STRIDE), format!("{value:#x}")));
    }
    named
}

/// Interrupt controllers, timer and clock.
pub fn of_machine(state: &VmState) -> Vec<Named> {
    let mut named = Vec::new();
    let [master, slave, ioapic] = &state.irqchips;
    named.extend(pic("PIC master", master));
    named.extend(pic("PIC slave", slave));
    named.extend(io_apic(ioapic));
    for (index, mut channel) in state.pit.channels.into_iter().enumerate() {
        // The host's time of the last load, not the guest's.
        channel.count_load_time = 0;
        named.push((format!("PIT channel {index}"), format!("{channel:?}")));
    }
    named.push(("PIT flags".into(), format!("{:#x}", state.pit.flags)));
    named.push(("kvmclock".into(), format!("{} ns", state.clock_ns)));
    named
}

fn segment(it: &kvm_segment) -> String {
    format!(
        "{:#x}: base {:#x} limit {:#x} type {} dpl {} flags p{} db{} s{} l{} g{} avl{} u{}",
        it.selector,
        it.base,
        it.limit,
        it.type_,
        it.dpl,
        it.present,
        it.db,
        it.s,
        it.l,
        it.g,
        it.avl,
        it.unusable
    )
}

fn table(it: &kvm_dtable) -> String {
    format!("base {:#x} limit {:#x}", it.base, it.limit)
}

fn msr_name(index: u32) -> String {
    let name = match index {
        0x1b => "APIC_BASE",
        0x3a => "FEATURE_CONTROL",
        0x3b => "TSC_ADJUST",
        0x48 => "SPEC_CTRL",
        0x174 => "SYSENTER_CS",
        0x175 => "SYSENTER_ESP",
        0x176 => "SYSENTER_EIP",
        0x1a0 => "MISC_ENABLE",
        0x1d9 => "DEBUGCTL",
        0x277 => "PAT",
        0x6e0 => "TSC_DEADLINE",
        0xda0 => "XSS",
        0xc000_0080 => "EFER",
        0xc000_0081 => "STAR",
        0xc000_0082 => "LSTAR",
        0xc000_0083 => "CSTAR",
        0xc000_0084 => "FMASK",
        0xc000_0100 => "FS_BASE",
        0xc000_0101 => "GS_BASE",
        0xc000_0102 => "KERNEL_GS_BASE",
        0xc000_0103 => "TSC_AUX",
        0x12 | 0x4b56_4d01 => "KVM_SYSTEM_TIME",
        _ => return format!("MSR {index:#x}"),
    };
    format!("MSR {name} ({index:#x})")
}

fn lapic_name(index: usize) -> String {
    let name = match index {
        0x02 => "id",
        0x03 => "version",
        0x08 => "task priority",
        0x0a => "processor priority",
        0x0d => "logical destination",
        0x0e => "destination format",
        0x0f => "spurious vector",
        0x10..=0x17 => return format!("local APIC in service {}", index - 0x10),
        0x18..=0x1f => return format!("local APIC trigger mode {}", index - 0x18),
        0x20..=0x27 => return format!("local APIC requested {}", index - 0x20),
        0x28 => "error status",
        0x30 => "interrupt command low",
        0x31 => "interrupt command high",
        0x32 => "timer vector",
        0x33 => "thermal vector",
        0x34 => "performance vector",
        0x35 => "LINT0",
        0x36 => "LINT1",
        0x37 => "error vector",
        0x38 => "timer initial count",
        0x39 => "timer current count",
        0x3e => "timer divide",
        _ => return format!("local APIC {:#x}", index * 16),
    };
    format!("local APIC {name}")
}

/// Legacy area, header, and the rest by offset (Intel SDM volume 1, 13.4).
fn vectors(area: &kvm_xsave) -> Vec<Named> {
    let bytes: Vec<u8> = area.region.iter().flat_map(|word| word.to_le_bytes()).collect();
    let rows = bytes.as_chunks::<ROW>().0.iter().enumerate();
    rows.map(|(index, row)| {
        let name = match index {
            0 | 1 => format!("x87 control {index}"),
            2..=9 => format!("st{}", index - 2),
            10..=25 => format!("xmm{}", index - 10),
            32 => "XSTATE_BV and XCOMP_BV".to_owned(),
            _ => format!("xsave+{:#x}", index * ROW),
        };
        (name, format!("{:#034x}", u128::from_le_bytes(*row)))
    })
    .collect()
}

/// `struct kvm_pic_state`: bytes only.
fn pic(name: &str, chip: &kvm_irqchip) -> Vec<Named> {
    const FIELDS: [&str; 16] = [
        "last irr",
        "irr",
        "imr",
        "isr",
        "priority add",
        "irq base",
        "read register select",
        "poll",
        "special mask",
        "init state",
        "auto eoi",
        "rotate on auto eoi",
        "special fully nested mode",
        "init4",
        "elcr",
        "elcr mask",
    ];
    let fields = FIELDS.iter().zip(irqchip_bytes(chip));
    fields.map(|(field, value)| (format!("{name} {field}"), format!("{value:#x}"))).collect()
}

/// `struct kvm_ioapic_state`: two 32-bit words of address, three registers, padding, then the
/// redirection table.
fn io_apic(chip: &kvm_irqchip) -> Vec<Named> {
    let words = irqchip_bytes(chip).as_chunks::<4>().0;
    let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let first = ["base low", "base high", "select", "id", "irr"];
    let mut named: Vec<Named> = first
        .iter()
        .zip(&words)
        .map(|(name, value)| (format!("I/O APIC {name}"), format!("{value:#x}")))
        .collect();
    let table = words.get(6..54).unwrap_or_default().as_chunks::<2>().0;
    named.extend(table.iter().enumerate().map(|(pin, [low, high])| {
        let entry = u64::from(*low) | u64::from(*high) << 32;
        (format!("I/O APIC pin {pin}"), format!("{entry:#x}"))
    }));
    named
}
