//! What this host would let the agent give up.

use rustix::process::{Resource, getrlimit};

/// What [`confine`](super::confine) would find here. Nothing is given up by looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Possible {
    /// The kernel can keep programs from getting more rights.
    pub no_new_privileges: bool,
    /// Capabilities this process has now, one bit each; an agent that serves drops them all.
    pub capabilities: u64,
    /// Whether the capabilities could be read, and so be dropped.
    pub capabilities_known: bool,
    /// Landlock.
    pub landlock: LandlockHere,
    /// The kernel filters system calls, and can end a process for one.
    pub system_calls: bool,
    /// Files this process may have open; `None` for any number.
    pub open_files: Option<u64>,
}

/// Landlock, as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LandlockHere {
    /// Landlock works, with this version of its interface.
    Version(i32),
    /// Built in, and switched off when the host was booted.
    SwitchedOff,
    /// The kernel has none.
    Missing,
}

/// Looks.
pub fn possible() -> Possible {
    let capabilities = rustix::thread::capabilities(None);
    let held = capabilities
        .as_ref()
        .map_or(0, |sets| (sets.effective | sets.permitted | sets.inheritable).bits());
    Possible {
        no_new_privileges: rustix::thread::no_new_privs().is_ok(),
        capabilities: held,
        capabilities_known: capabilities.is_ok(),
        landlock: landlock(),
        system_calls: filters_can_kill(),
        open_files: getrlimit(Resource::Nofile).current,
    }
}

/// landlock_create_ruleset(2) with nothing but `LANDLOCK_CREATE_RULESET_VERSION`.
fn landlock() -> LandlockHere {
    const VERSION: libc::c_long = 1;
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag it only gives a number, and reads nothing.
    let found = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0, VERSION) };
    match i32::try_from(found) {
        Ok(version) if version > 0 => LandlockHere::Version(version),
        _ => match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EOPNOTSUPP) => LandlockHere::SwitchedOff,
            _ => LandlockHere::Missing,
        },
    }
}

/// seccomp(2), `SECCOMP_GET_ACTION_AVAIL`.
fn filters_can_kill() -> bool {
    let action: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    let operation = libc::SECCOMP_GET_ACTION_AVAIL;
    // SAFETY: reads four bytes, which are there; changes nothing.
    unsafe { libc::syscall(libc::SYS_seccomp, operation, 0, &raw const action) == 0 }
}
