//! Special registers: control registers, segments, descriptor tables, pending interrupt.

use kvm_bindings::{kvm_dtable, kvm_segment};
use kvm_ioctls::SyncReg;

use super::VcpuState;
use super::group::{VcpuGroup, Writer};
use crate::arch::Named;
use crate::ioctl::{self, KvmError};
use crate::mismatch;

pub const GROUP: VcpuGroup = VcpuGroup {
    listed: 2,
    read: |reader| {
        reader.state.sregs = match &reader.left {
            Some((_, sregs, _)) => *sregs,
            None => reader.fd.get_sregs().map_err(KvmError::ioctl("KVM_GET_SREGS"))?,
        };
        Ok(())
    },
    write,
    compare: |pair, found| {
        let (then, now) = (&pair.then.sregs, &pair.now.sregs);
        found.extend(mismatch::of_values("special registers".into(), then, now));
    },
    describe,
};

fn write(writer: &mut Writer<'_>) -> Result<(), KvmError> {
    if writer.started() {
        writer.fd.sync_regs_mut().sregs = writer.state.sregs;
        writer.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
        return Ok(());
    }
    ioctl::call("KVM_SET_SREGS", || writer.fd.set_sregs(&writer.state.sregs))
}

fn describe(state: &VcpuState, named: &mut Vec<Named>) {
    let special = &state.sregs;
    let control = [
        ("cr0", special.cr0),
        ("cr2", special.cr2),
        ("cr3", special.cr3),
        ("cr4", special.cr4),
        ("cr8", special.cr8),
        ("efer", special.efer),
        ("apic base", special.apic_base),
    ];
    named.extend(control.map(|(name, value)| (name.to_owned(), format!("{value:#x}"))));
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
    named.extend(segments.map(|(name, value)| (name.to_owned(), segment(value))));
    named.push(("gdt".into(), table(&special.gdt)));
    named.push(("idt".into(), table(&special.idt)));
    named.push(("interrupt bitmap".into(), format!("{:x?}", special.interrupt_bitmap)));
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
