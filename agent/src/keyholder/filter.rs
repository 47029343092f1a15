//! The system calls that are left to the key holder.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

/// A filter that ends the process on anything but: reading and writing descriptor 0, telling the
/// time, memory that holds neither a file nor code, and exiting.
pub fn program() -> Result<BpfProgram, BackendError> {
    let argument = |index, operator, value| {
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
    };
    let only = |conditions| Ok::<_, BackendError>(vec![SeccompRule::new(conditions)?]);
    let on_standard_input = || only(vec![argument(0, SeccompCmpOp::Eq, 0)?]);
    let flag = |flag: libc::c_int| u64::from(flag.cast_unsigned());
    let plain_memory = only(vec![
        argument(2, SeccompCmpOp::MaskedEq(flag(libc::PROT_EXEC)), 0)?,
        argument(3, SeccompCmpOp::MaskedEq(flag(libc::MAP_ANONYMOUS)), flag(libc::MAP_ANONYMOUS))?,
    ])?;
    let wall_clock = only(vec![argument(0, SeccompCmpOp::Eq, flag(libc::CLOCK_REALTIME))?])?;
    let rules = BTreeMap::from([
        (libc::SYS_read, on_standard_input()?),
        (libc::SYS_write, on_standard_input()?),
        (libc::SYS_clock_gettime, wall_clock),
        (libc::SYS_mmap, plain_memory),
        (libc::SYS_brk, Vec::new()),
        (libc::SYS_munmap, Vec::new()),
        (libc::SYS_restart_syscall, Vec::new()),
        (libc::SYS_rt_sigreturn, Vec::new()),
        // The runtime gives its signal stack back on the way out.
        (libc::SYS_sigaltstack, Vec::new()),
        (libc::SYS_exit, Vec::new()),
        (libc::SYS_exit_group, Vec::new()),
    ]);
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?
        .try_into()
}

#[cfg(test)]
mod tests;
