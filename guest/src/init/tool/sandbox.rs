//! What a child does to itself between fork and exec. The order matters: each step needs what
//! later steps take away.

use std::fs;
use std::os::fd::RawFd;
use std::path::Path;

use guest::registry::Limits;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::unistd::{Gid, Uid, chdir, setgroups, setresgid, setresuid, setsid};

use super::Filters;
use crate::init::defence::Defence;

/// User and group of every tool.
const TOOL_ID: u32 = 1000;
const MAX_FILES: u64 = 256;
const LAST_CAPABILITY: libc::c_ulong = 40;

/// Turns this process into a place for a tool: own session, cgroup and mounts, no privileges, a
/// system call filter. The error names the step.
pub fn enter(
    streams: [RawFd; 2],
    limits: &Limits,
    processes_file: &Path,
    filters: &Filters,
) -> Result<(), String> {
    setsid().map_err(|e| format!("setsid: {e}"))?;
    fs::write(processes_file, "0").map_err(|e| format!("joining the cgroup: {e}"))?;
    fs::write("/proc/self/oom_score_adj", "500").map_err(|e| format!("oom_score_adj: {e}"))?;
    standard_streams(streams)?;
    if Defence::Mounts.holds() {
        private_mounts(limits.scratch_mib)?;
    }
    if Defence::Limits.holds() {
        resource_limits(limits)?;
    }
    signals()?;
    if Defence::Privileges.holds() {
        drop_privileges()?;
    }
    if Defence::Filter.holds() { filters.apply() } else { Ok(()) }
}

fn standard_streams([stdout, stderr]: [RawFd; 2]) -> Result<(), String> {
    let null = fs::File::open("/dev/null").map_err(|e| format!("/dev/null: {e}"))?;
    for (from, to) in [(std::os::fd::AsRawFd::as_raw_fd(&null), 0), (stdout, 1), (stderr, 2)] {
        // SAFETY: duplicates an open descriptor over a standard stream of this child.
        check(unsafe { libc::dup2(from, to) }.into(), "standard streams")?;
    }
    // SAFETY: marks descriptors to be closed by exec; nothing is closed now.
    let marked = unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    check(marked, "close_range")
}

fn private_mounts(scratch_mib: u64) -> Result<(), String> {
    let error = |what: &'static str| move |e: nix::Error| format!("{what}: {e}");
    unshare(CloneFlags::CLONE_NEWNS).map_err(error("unshare"))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(error("private mounts"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let options = format!("mode=1777,size={scratch_mib}m");
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(error("mounting /tmp"))?;
    chdir("/tmp").map_err(error("chdir"))
}

fn resource_limits(limits: &Limits) -> Result<(), String> {
    let largest = limits.memory_mib.saturating_mul(1 << 20);
    for (resource, value) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NOFILE, MAX_FILES),
        (Resource::RLIMIT_FSIZE, largest),
    ] {
        setrlimit(resource, value, value).map_err(|e| format!("limits: {e}"))?;
    }
    Ok(())
}

/// PID 1 blocks the signals it reads from a descriptor, and Rust ignores SIGPIPE; exec would hand
/// both down.
fn signals() -> Result<(), String> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(|e| format!("signals: {e}"))?;
    // SAFETY: sets the default action; no handler is involved.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }
        .map(|_| ())
        .map_err(|e| format!("signals: {e}"))
}

fn drop_privileges() -> Result<(), String> {
    let error = |what: &'static str| move |e: nix::Error| format!("{what}: {e}");
    for capability in 0..=LAST_CAPABILITY {
        // SAFETY: prctl with integers only. A kernel with fewer capabilities says EINVAL.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    setgroups(&[]).map_err(error("setgroups"))?;
    let (user, group) = (Uid::from_raw(TOOL_ID), Gid::from_raw(TOOL_ID));
    setresgid(group, group, group).map_err(error("setresgid"))?;
    // Leaving uid 0 empties the effective and permitted capability sets.
    setresuid(user, user, user).map_err(error("setresuid"))?;
    // SAFETY: prctl with integers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into(), "no_new_privs")
}

fn check(result: libc::c_long, step: &str) -> Result<(), String> {
    if result < 0 { Err(format!("{step}: {}", std::io::Error::last_os_error())) } else { Ok(()) }
}
