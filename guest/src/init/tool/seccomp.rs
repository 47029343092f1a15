//! The system call filter of tools.
//!
//! A closed list: what is not known to be needed is refused with `EPERM`, calls that future
//! kernels add and numbers of other calling conventions included. Sockets exist only between
//! processes of the tool itself, so it cannot reach the control connection or the host.
//!
//! `clone3` hides its flags in memory where no filter can look, so it does not exist (`ENOSYS`:
//! libraries fall back to `clone`, which is checked). One filter has one way to refuse; this takes
//! a second one.

mod allowed;

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use allowed::ALLOWED;

/// Namespaces a `clone` may not create. The time namespace has no flag there.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// The filters, compiled once and installed in every child.
pub struct Filters {
    programs: [BpfProgram; 2],
}

impl Filters {
    pub fn new() -> Result<Self, String> {
        let mut rules: BTreeMap<libc::c_long, Vec<SeccompRule>> =
            ALLOWED.iter().copied().flatten().map(|call| (*call, Vec::new())).collect();
        let namespaces = u64::from(NAMESPACES.cast_unsigned());
        let no_namespace = rule(SeccompCmpOp::MaskedEq(namespaces), 0)?;
        rules.insert(libc::SYS_clone, vec![no_namespace]);
        for call in [libc::SYS_socket, libc::SYS_socketpair] {
            rules.insert(call, vec![rule(SeccompCmpOp::Eq, libc::AF_UNIX as u64)?]);
        }
        let missing = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let allow = SeccompAction::Allow;
        Ok(Self {
            programs: [
                compile(missing, errno(libc::ENOSYS), allow.clone())?,
                compile(rules, allow, errno(libc::EPERM))?,
            ],
        })
    }

    /// Installs the filters in the calling process, for good.
    pub fn apply(&self) -> Result<(), String> {
        // The closed list comes last: it does not allow filters to be installed.
        for program in &self.programs {
            apply_filter(program).map_err(|e| format!("seccomp: {e}"))?;
        }
        Ok(())
    }
}

fn errno(error: libc::c_int) -> SeccompAction {
    SeccompAction::Errno(error.cast_unsigned())
}

/// Compares the first argument.
fn rule(operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, String> {
    let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value)
        .map_err(|e| e.to_string())?;
    SeccompRule::new(vec![condition]).map_err(|e| e.to_string())
}

fn compile(
    rules: BTreeMap<libc::c_long, Vec<SeccompRule>>,
    matched: SeccompAction,
    otherwise: SeccompAction,
) -> Result<BpfProgram, String> {
    SeccompFilter::new(rules, otherwise, matched, TargetArch::x86_64)
        .and_then(TryInto::try_into)
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
