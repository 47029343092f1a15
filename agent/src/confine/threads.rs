//! Threads whose work needs less than the agent's.
//!
//! A filter is inherited by the threads that one starts. The runtime's threads start one another,
//! and some of them talk to machines and some to the relay: for them only the process's filters hold.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use libc::c_long;
use sandbox::pool::at_pool_thread_start;
use seccompiler::{BackendError, BpfProgram, SeccompAction};

use super::calls::{KVM_IOCTLS, OF_THREADS, Rules, compile, install, ioctls_of, without};
use super::{ConfineError, step};

/// Kinds of threads that have filters of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadKind {
    /// Writes a store: files, and nothing else.
    Store,
    /// Makes, resets and ends machines: KVM, memory, files, threads of vCPUs; no sockets.
    Machines,
}

/// Nothing of a machine or a store goes over these.
pub const SOCKETS: &[c_long] = &[
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
];

/// What would make a thread of a store more than that.
const NEVER_IN_STORES: &[c_long] = &[
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_memfd_create,
];

/// What SQLite does with a file and the log beside it, beside what every thread does.
pub const OF_STORES: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fdatasync,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_lstat,
    libc::SYS_newfstatat,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_prlimit64,
    libc::SYS_pwrite64,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_stat,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
];

struct Filters {
    store: Vec<BpfProgram>,
    machines: Vec<BpfProgram>,
}

static FILTERS: OnceLock<Filters> = OnceLock::new();

/// Has every thread of these kinds that starts from now on begin with its filters. False when the
/// threads of pools already have another task at their start, so that they have no filter.
pub fn guard() -> Result<bool, ConfineError> {
    let filters = Filters {
        store: step::<_, BackendError>("compile the stores' filters", of_stores())?,
        machines: step::<_, BackendError>("compile the machines' filter", of_machines())?,
    };
    // A second call finds the filters of the first in force.
    let first = FILTERS.set(filters).is_ok();
    let set = at_pool_thread_start(|| enter(ThreadKind::Machines));
    Ok(set || !first)
}

/// To be called by such a thread before it does anything else. Does nothing in a process that is
/// not confined.
///
/// # Panics
///
/// Where the kernel refuses the filters: such a thread must not go on.
pub fn enter(kind: ThreadKind) {
    let Some(filters) = FILTERS.get() else { return };
    let programs = match kind {
        ThreadKind::Store => &filters.store,
        ThreadKind::Machines => &filters.machines,
    };
    let installed = install(programs);
    assert!(installed.is_ok(), "the filter of a thread: {installed:?}");
}

/// Both are in force, and what one of them ends stays ended.
fn of_stores() -> Result<Vec<BpfProgram>, BackendError> {
    let mut never = plain(SOCKETS);
    never.extend(plain(NEVER_IN_STORES));
    never.insert(libc::SYS_ioctl, vec![ioctls_of(KVM_IOCTLS)?]);
    let mut allowed = plain(OF_THREADS);
    allowed.extend(plain(OF_STORES));
    // No code.
    allowed.insert(libc::SYS_mmap, vec![without(2, libc::PROT_EXEC)?]);
    allowed.insert(libc::SYS_mprotect, vec![without(2, libc::PROT_EXEC)?]);
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    // The second one would not let the first be put in force.
    Ok(vec![
        compile(never, SeccompAction::Allow, SeccompAction::KillProcess)?,
        compile(allowed, refused, SeccompAction::Allow)?,
    ])
}

fn of_machines() -> Result<Vec<BpfProgram>, BackendError> {
    Ok(vec![compile(plain(SOCKETS), SeccompAction::Allow, SeccompAction::KillProcess)?])
}

fn plain(calls: &[c_long]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect::<BTreeMap<_, _>>()
}
