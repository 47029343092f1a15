//! The system call filter of tools.
//!
//! Everything a tool has no business with is refused with `EPERM`: other processes, mounts,
//! namespaces, modules, time, keys, BPF, io_uring, raw I/O. Sockets exist only between processes
//! of the tool itself, so it cannot reach the control connection or the host. `clone3` hides its
//! flags in memory where no filter can look, so it does not exist (`ENOSYS`: libraries fall back
//! to `clone`).

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// Refused whatever their arguments are.
const REFUSED: [libc::c_long; 76] = [
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_acct,
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_personality,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_vhangup,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_mbind,
    libc::SYS_set_mempolicy,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_seccomp,
];

/// Namespaces a `clone` may not create.
const NAMESPACES: [libc::c_int; 8] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    0x80,
];

/// The filters, compiled once and installed in every child.
pub struct Filters {
    programs: [BpfProgram; 2],
}

impl Filters {
    pub fn new() -> Result<Self, String> {
        let mut refused: BTreeMap<libc::c_long, Vec<SeccompRule>> =
            REFUSED.iter().map(|call| (*call, Vec::new())).collect();
        let not_local = rule(0, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?;
        refused.insert(libc::SYS_socket, vec![not_local]);
        let namespaces = NAMESPACES
            .iter()
            .map(|flag| {
                let flag = u64::from(flag.cast_unsigned());
                rule(0, SeccompCmpOp::MaskedEq(flag), flag)
            })
            .collect::<Result<Vec<_>, _>>()?;
        refused.insert(libc::SYS_clone, namespaces);
        let missing = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        Ok(Self { programs: [compile(refused, libc::EPERM)?, compile(missing, libc::ENOSYS)?] })
    }

    /// Installs the filters in the calling process, for good.
    pub fn apply(&self) -> Result<(), String> {
        // The second filter is installed under the first, which must therefore still allow that:
        // the one that refuses `seccomp` comes last.
        for program in self.programs.iter().rev() {
            apply_filter(program).map_err(|e| format!("seccomp: {e}"))?;
        }
        Ok(())
    }
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, String> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
        .map_err(|e| e.to_string())?;
    SeccompRule::new(vec![condition]).map_err(|e| e.to_string())
}

fn compile(
    rules: BTreeMap<libc::c_long, Vec<SeccompRule>>,
    errno: libc::c_int,
) -> Result<BpfProgram, String> {
    let refuse = SeccompAction::Errno(errno.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::x86_64)
        .and_then(TryInto::try_into)
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    use super::*;

    /// What a system call says under the filters: 0, or its error number.
    fn under_filters(call: libc::c_long, first: libc::c_long) -> i32 {
        let filters = Filters::new().unwrap();
        // SAFETY: the child only makes system calls and ends without running destructors.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                // SAFETY: prctl with integers only.
                unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
                let code = if filters.apply().is_ok() { raw(call, first) } else { 99 };
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(code) }
            }
            ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
                WaitStatus::Exited(_, code) => code,
                other => panic!("{other:?}"),
            },
        }
    }

    fn raw(call: libc::c_long, first: libc::c_long) -> i32 {
        // SAFETY: the calls tested here fail, or create a socket, or fork: a copy of a child that
        // ends right after this.
        let result = unsafe { libc::syscall(call, first, 1, 0, 0, 0, 0) };
        if result < 0 { std::io::Error::last_os_error().raw_os_error().unwrap_or(98) } else { 0 }
    }

    #[test]
    fn sockets_beyond_the_tool_are_refused() {
        for (family, expected) in
            [(libc::AF_UNIX, 0), (libc::AF_VSOCK, libc::EPERM), (libc::AF_INET, libc::EPERM)]
        {
            assert_eq!(under_filters(libc::SYS_socket, family.into()), expected, "family {family}");
        }
    }

    #[test]
    fn namespaces_and_clone3_are_refused_and_fork_is_not() {
        let user = libc::c_long::from(libc::CLONE_NEWUSER | libc::SIGCHLD);
        assert_eq!(under_filters(libc::SYS_clone, user), libc::EPERM);
        assert_eq!(under_filters(libc::SYS_clone3, 0), libc::ENOSYS);
        assert_eq!(under_filters(libc::SYS_fork, 0), 0);
    }

    #[test]
    fn everything_on_the_list_is_refused() {
        for call in REFUSED {
            assert_eq!(under_filters(call, 0), libc::EPERM, "call {call}");
        }
    }
}
