//! Debug registers.

use super::VcpuState;
use super::group::VcpuGroup;
use crate::arch::Named;
use crate::ioctl::{self, KvmError};
use crate::mismatch;

pub const GROUP: VcpuGroup = VcpuGroup {
    listed: 5,
    read: |reader| {
        let read = reader.fd.get_debug_regs();
        reader.state.debug_regs = read.map_err(KvmError::ioctl("KVM_GET_DEBUGREGS"))?;
        Ok(())
    },
    write: |writer| {
        let (fd, regs) = (&writer.fd, &writer.state.debug_regs);
        ioctl::call("KVM_SET_DEBUGREGS", || fd.set_debug_regs(regs))
    },
    compare: |pair, found| {
        let (then, now) = (&pair.then.debug_regs, &pair.now.debug_regs);
        found.extend(mismatch::of_values("debug registers".into(), then, now));
    },
    describe,
};

fn describe(state: &VcpuState, named: &mut Vec<Named>) {
    for (index, value) in state.debug_regs.db.iter().enumerate() {
        named.push((format!("dr{index}"), format!("{value:#x}")));
    }
    named.push(("dr6".into(), format!("{:#x}", state.debug_regs.dr6)));
    named.push(("dr7".into(), format!("{:#x}", state.debug_regs.dr7)));
}
