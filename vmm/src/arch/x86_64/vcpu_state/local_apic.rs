//! The local APIC and its timer.

use kvm_bindings::kvm_lapic_state;

use super::VcpuState;
use super::group::{VcpuComparison, VcpuGroup, Writer};
use crate::arch::Named;
use crate::arch::x86_64::residue::Residue;
use crate::arch::x86_64::{lapic, msrs};
use crate::ioctl::{self, KvmError};
use crate::mismatch::{self, Mismatch};

pub const GROUP: VcpuGroup = VcpuGroup {
    listed: 7,
    read: |reader| {
        *reader.state.lapic = reader.fd.get_lapic().map_err(KvmError::ioctl("KVM_GET_LAPIC"))?;
        Ok(())
    },
    write,
    compare,
    describe,
};

fn write(writer: &mut Writer<'_>) -> Result<(), KvmError> {
    // The APIC's base address cannot have moved: its MSR is behind the filter.
    ioctl::call("KVM_SET_LAPIC", || writer.fd.set_lapic(&writer.state.lapic))?;
    // The deadline is written with the other MSRs and once more after the local APIC: if the guest
    // had taken the timer out of deadline mode, KVM ignored the first write.
    match writer.deadline {
        Some(deadline) => msrs::write(writer.fd, deadline),
        None => Ok(()),
    }
}

fn compare(pair: &VcpuComparison<'_>, found: &mut Vec<Mismatch<String>>) {
    let (then, now) = (&*pair.then.lapic, &*pair.now.lapic);
    if compared(then) == compared(now) {
        return;
    }
    let differing = lapic::registers(then)
        .zip(lapic::registers(now))
        .filter(|((offset, then), (_, now))| *offset != lapic::CURRENT_COUNT && then != now)
        .map(|((at, then), (_, now))| {
            (format!("{at:#x}: {then:#x}"), format!("{at:#x}: {now:#x}"))
        });
    let deadlines = (pair.then.deadline(), pair.now.deadline());
    let residue = Residue::of_lapic(then, now, deadlines, pair.now.tsc);
    let mismatch = Mismatch::new("local APIC".into(), mismatch::pairs(differing));
    found.push(mismatch.or_residue(residue.map(Residue::reason)));
}

/// The registers without the one that runs.
fn compared(apic: &kvm_lapic_state) -> (Option<&[i8]>, Option<&[i8]>) {
    (apic.regs.get(..lapic::CURRENT_COUNT), apic.regs.get(lapic::CURRENT_COUNT + 4..))
}

fn describe(state: &VcpuState, named: &mut Vec<Named>) {
    named.extend(
        lapic::registers(&state.lapic).map(|(offset, value)| (name(offset), format!("{value:#x}"))),
    );
}

fn name(offset: usize) -> String {
    let index = offset / lapic::STRIDE;
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
        _ => return format!("local APIC {offset:#x}"),
    };
    format!("local APIC {name}")
}
