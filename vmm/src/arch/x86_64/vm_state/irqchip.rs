//! The two PICs and the I/O APIC.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_irqchip,
};
use kvm_ioctls::VmFd;

use super::group::{VmComparison, VmGroup, VmReader};
use crate::arch::Named;
use crate::arch::x86_64::residue::Residue;
use crate::ioctl::{self, KvmError};
use crate::mismatch::{self, Mismatch};

/// Which controller stands at which index of the state.
pub const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

pub const PIC_MASTER: VmGroup = VmGroup {
    read: |reader| read(reader, 0),
    write: |vm, state| write(vm, &state.irqchips[0]),
    compare: |pair| compare("PIC master", pair, 0),
    describe: |state, named| pic("PIC master", &state.irqchips[0], named),
};

pub const PIC_SLAVE: VmGroup = VmGroup {
    read: |reader| read(reader, 1),
    write: |vm, state| write(vm, &state.irqchips[1]),
    compare: |pair| compare("PIC slave", pair, 1),
    describe: |state, named| pic("PIC slave", &state.irqchips[1], named),
};

pub const IO_APIC: VmGroup = VmGroup {
    read: |reader| read(reader, 2),
    write: |vm, state| write(vm, &state.irqchips[2]),
    compare: |pair| compare("I/O APIC", pair, 2),
    describe: |state, named| io_apic(&state.irqchips[2], named),
};

fn read(reader: &mut VmReader<'_>, index: usize) -> Result<(), KvmError> {
    for (chip, chip_id) in reader.state.irqchips.iter_mut().zip(CHIPS).skip(index).take(1) {
        *chip = kvm_irqchip { chip_id, ..Default::default() };
        reader.vm.get_irqchip(chip).map_err(KvmError::ioctl("KVM_GET_IRQCHIP"))?;
    }
    Ok(())
}

fn write(vm: &VmFd, chip: &kvm_irqchip) -> Result<(), KvmError> {
    ioctl::call("KVM_SET_IRQCHIP", || vm.set_irqchip(chip))
}

fn compare(
    name: &'static str,
    pair: &VmComparison<'_>,
    index: usize,
) -> Option<Mismatch<&'static str>> {
    let [then, now] = [pair.then, pair.now].map(|state| state.irqchips.get(index).map(bytes));
    let (then, now) = (then.unwrap_or_default(), now.unwrap_or_default());
    let residue = if index == 0 { Residue::of_pic_master(then, now) } else { None };
    (then != now).then(|| {
        Mismatch::new(name, mismatch::bytes(then, now)).or_residue(residue.map(Residue::reason))
    })
}

/// The state of one interrupt controller as bytes.
fn bytes(chip: &kvm_irqchip) -> &[u8] {
    // SAFETY: both members of the union are plain bytes and integers, the other one is exactly as
    // long as the union, and every bit pattern is valid.
    let bytes: &[std::ffi::c_char; 512] = unsafe { &chip.chip.dummy };
    // SAFETY: `c_char` and `u8` have the same size, alignment and valid values.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
}

/// `struct kvm_pic_state`: bytes only.
fn pic(name: &str, chip: &kvm_irqchip, named: &mut Vec<Named>) {
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
    let fields = FIELDS.iter().zip(bytes(chip));
    named.extend(fields.map(|(field, value)| (format!("{name} {field}"), format!("{value:#x}"))));
}

/// `struct kvm_ioapic_state`: two 32-bit words of address, three registers, padding, then the
/// redirection table.
fn io_apic(chip: &kvm_irqchip, named: &mut Vec<Named>) {
    let words = bytes(chip).as_chunks::<4>().0;
    let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let registers = ["base low", "base high", "select", "id", "irr"].iter().zip(&words);
    named
        .extend(registers.map(|(name, value)| (format!("I/O APIC {name}"), format!("{value:#x}"))));
    let table = words.get(6..54).unwrap_or_default().as_chunks::<2>().0;
    named.extend(table.iter().enumerate().map(|(pin, [low, high])| {
        let entry = u64::from(*low) | u64::from(*high) << 32;
        (format!("I/O APIC pin {pin}"), format!("{entry:#x}"))
    }));
}
