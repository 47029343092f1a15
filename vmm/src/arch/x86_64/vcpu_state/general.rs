//! General registers, instruction pointer and flags.

use kvm_ioctls::SyncReg;

use super::VcpuState;
use super::group::{VcpuGroup, Writer};
use crate::arch::Named;
use crate::ioctl::{self, KvmError};
use crate::mismatch;

pub const GROUP: VcpuGroup = VcpuGroup {
    listed: 1,
    read: |reader| {
        reader.state.regs = match &reader.left {
            Some((regs, _, _)) => *regs,
            None => reader.fd.get_regs().map_err(KvmError::ioctl("KVM_GET_REGS"))?,
        };
        Ok(())
    },
    write,
    compare: |pair, found| {
        let (then, now) = (&pair.then.regs, &pair.now.regs);
        found.extend(mismatch::of_values("registers".into(), then, now));
    },
    describe,
};

fn write(writer: &mut Writer<'_>) -> Result<(), KvmError> {
    if writer.started() {
        writer.fd.sync_regs_mut().regs = writer.state.regs;
        writer.fd.set_sync_dirty_reg(SyncReg::Register);
        return Ok(());
    }
    ioctl::call("KVM_SET_REGS", || writer.fd.set_regs(&writer.state.regs))
}

fn describe(state: &VcpuState, named: &mut Vec<Named>) {
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
    named.extend(general.map(|(name, value)| (name.to_owned(), format!("{value:#x}"))));
}
