//! The system calls that a serving agent makes. Every other one is refused as one that the kernel does
//! not have: libraries then use the older call. [`NEVER`](super::calls) has those that end the agent.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{BackendError, BpfProgram, SeccompAction};

use super::calls::{OF_THREADS, compile};
use super::threads::{OF_STORES, SOCKETS};
use super::{ConfineError, step};

/// What some thread of the agent does, beside what all threads do, stores do and sockets need.
const OF_AGENT: &[c_long] = &[
    // Files, beside what stores do with them.
    libc::SYS_chmod,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup2,
    libc::SYS_dup3,
    libc::SYS_fadvise64,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_flock,
    libc::SYS_getdents64,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_msync,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_readv,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_rmdir,
    libc::SYS_sendfile,
    libc::SYS_statfs,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
    libc::SYS_umask,
    libc::SYS_utimensat,
    // Waiting, and the clock.
    libc::SYS_clock_getres,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_gettimeofday,
    libc::SYS_pipe,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_select,
    libc::SYS_time,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    // Sockets, beside making and using them.
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // Memory.
    libc::SYS_memfd_create,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munlock,
    // Threads, signals, and what this process may and has. New threads take their filters with `prctl` or
    // `seccomp`.
    libc::SYS_arch_prctl,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_clone,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getgid,
    libc::SYS_getpgrp,
    libc::SYS_getppid,
    libc::SYS_getpriority,
    libc::SYS_getrlimit,
    libc::SYS_getrusage,
    libc::SYS_getsid,
    libc::SYS_getuid,
    libc::SYS_kill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_prctl,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setscheduler,
    libc::SYS_seccomp,
    libc::SYS_set_tid_address,
    libc::SYS_setpriority,
    libc::SYS_setrlimit,
    libc::SYS_sysinfo,
    libc::SYS_times,
    libc::SYS_tkill,
    libc::SYS_uname,
    libc::SYS_wait4,
    libc::SYS_waitid,
    // KVM, terminals, files and sockets; threads of vCPUs and of stores have lists of their own.
    libc::SYS_ioctl,
];

/// The filter that refuses all other calls. `clone3` is one of them: its arguments lie in memory, where no
/// filter sees them, and `clone` is what callers use then.
pub fn filter() -> Result<BpfProgram, ConfineError> {
    let calls = [OF_THREADS, OF_STORES, SOCKETS, OF_AGENT].into_iter().flatten();
    let allowed: BTreeMap<_, _> = calls.map(|call| (*call, Vec::new())).collect();
    let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let program = compile(allowed, absent, SeccompAction::Allow);
    step::<_, BackendError>("compile the list of calls", program)
}
