use std::io::{Read, Write};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use super::*;

/// Some of what the closed list leaves out: those that would matter most.
const REFUSED: &[libc::c_long] = &[
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
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_seccomp,
    libc::SYS_memfd_secret,
    libc::SYS_sync,
    libc::SYS_setxattr,
    libc::SYS_sched_setscheduler,
    libc::SYS_setfsuid,
    libc::SYS_vmsplice,
];

/// Set in the numbers of the x32 calling convention.
const X32: libc::c_long = 0x4000_0000;

/// What a child under the filters ends with.
fn under_filters(act: impl FnOnce() -> i32) -> i32 {
    let filters = Filters::new().unwrap();
    // SAFETY: the child ends without running anything of the other threads it has lost.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            // SAFETY: prctl with integers only.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            let code = if filters.apply().is_ok() { act() } else { 99 };
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, code) => code,
            other => panic!("{other:?}"),
        },
    }
}

/// What a system call says under the filters: 0, or its error number.
fn call(number: libc::c_long, first: libc::c_long) -> i32 {
    under_filters(|| {
        // SAFETY: the calls tested here fail, or create a socket, or fork: a copy of a child that
        // ends right after this.
        let result = unsafe { libc::syscall(number, first, 1, 0, 0, 0, 0) };
        if result < 0 { std::io::Error::last_os_error().raw_os_error().unwrap_or(98) } else { 0 }
    })
}

#[test]
fn sockets_beyond_the_tool_are_refused() {
    for (family, expected) in [
        (libc::AF_UNIX, 0),
        (libc::AF_VSOCK, libc::EPERM),
        (libc::AF_INET, libc::EPERM),
        (libc::AF_INET6, libc::EPERM),
        (libc::AF_NETLINK, libc::EPERM),
        (libc::AF_PACKET, libc::EPERM),
        (libc::AF_ALG, libc::EPERM),
    ] {
        assert_eq!(call(libc::SYS_socket, family.into()), expected, "family {family}");
    }
    assert_eq!(call(libc::SYS_socketpair, libc::AF_VSOCK.into()), libc::EPERM);
}

#[test]
fn namespaces_and_clone3_are_refused_and_fork_is_not() {
    for flag in [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ] {
        let flags = libc::c_long::from(flag | libc::SIGCHLD);
        assert_eq!(call(libc::SYS_clone, flags), libc::EPERM, "flag {flag:#x}");
    }
    assert_eq!(call(libc::SYS_clone3, 0), libc::ENOSYS);
    assert_eq!(call(libc::SYS_fork, 0), 0);
    assert_eq!(call(libc::SYS_clone, libc::SIGCHLD.into()), 0);
}

#[test]
fn what_matters_most_is_refused() {
    for number in REFUSED {
        assert_eq!(call(*number, 0), libc::EPERM, "call {number}");
    }
}

#[test]
fn calls_that_are_not_known_yet_are_refused() {
    for number in [460, 500, 999, 4096, X32 | libc::SYS_getpid, X32 | 0x208] {
        assert_eq!(call(number, 0), libc::EPERM, "call {number}");
    }
}

#[test]
fn the_list_and_what_must_be_refused_have_nothing_in_common() {
    let mut allowed: Vec<_> = ALLOWED.iter().copied().flatten().collect();
    assert!(!allowed.iter().any(|number| REFUSED.contains(number)));
    let count = allowed.len();
    allowed.sort_unstable();
    allowed.dedup();
    assert_eq!(allowed.len(), count, "something is listed twice");
}

#[test]
fn ordinary_work_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let code = under_filters(|| {
        let work = || -> std::io::Result<bool> {
            std::fs::write(&path, "text")?;
            let mut text = String::new();
            std::fs::File::open(&path)?.read_to_string(&mut text)?;
            let (mut from, mut to) = std::os::unix::net::UnixStream::pair()?;
            let thread = std::thread::spawn(move || to.write_all(b"!"));
            let mut said = [0];
            from.read_exact(&mut said)?;
            let joined = matches!(thread.join(), Ok(Ok(())));
            std::thread::sleep(std::time::Duration::from_millis(1));
            Ok(text == "text" && said == *b"!" && joined && path.metadata()?.len() == 4)
        };
        i32::from(!work().unwrap_or(false))
    });
    assert_eq!(code, 0);
}
