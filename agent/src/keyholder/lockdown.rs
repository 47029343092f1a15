//! Giving up every right that signing does not need.

use std::{fs, io};

use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};

use super::filter;

/// Why the key holder could not give up its rights. It does not serve then.
#[derive(Debug, thiserror::Error)]
#[error(
    "the key holder could not lock itself down ({step}: {detail}); its kernel must have seccomp"
)]
pub struct LockdownError {
    step: &'static str,
    detail: String,
}

fn step<T, E: ToString>(step: &'static str, done: Result<T, E>) -> Result<T, LockdownError> {
    done.map_err(|error| LockdownError { step, detail: error.to_string() })
}

/// Before there is a key in memory: no process reads this memory, and nothing survives the agent.
pub fn before_reading() -> Result<(), LockdownError> {
    // Signals meant for the agent; when it is done, the socket ends and this process with it.
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: ignoring a signal runs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let with_parent = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    step("end with the agent", with_parent)?;
    let undumpable = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    step("hide memory", undumpable)?;
    limit("core dumps", Resource::Core)?;
    close_from(3)
}

/// Once the key is in memory: no files, no processes, no system calls but those of the filter.
pub fn after_reading() -> Result<(), LockdownError> {
    close_from(1)?;
    limit("files", Resource::Nofile)?;
    limit("processes", Resource::Nproc)?;
    step("no new privileges", rustix::thread::set_no_new_privs(true))?;
    let program = step("compile the filter", filter::program())?;
    step("install the filter", seccompiler::apply_filter(&program))
}

/// Keeps these bytes off the disk, where there is still memory to be locked.
pub fn keep_in_memory<T>(value: &T) {
    let address = std::ptr::from_ref(value).cast_mut().cast();
    // SAFETY: locking the pages of a value that is borrowed does not change what they hold.
    let _ = unsafe { rustix::mm::mlock(address, size_of::<T>()) };
}

fn limit(what: &'static str, resource: Resource) -> Result<(), LockdownError> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    step(what, rustix::process::setrlimit(resource, none))
}

/// Closes every descriptor from `first` on: what else the agent had open is not for this process.
fn close_from(first: u32) -> Result<(), LockdownError> {
    // By number, because musl has no function for it.
    // SAFETY: no value here owns one of these descriptors, and nothing is printed any more once
    // those of standard output and error are among them.
    let closed = match unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } {
        0 => Ok(()),
        // A kernel before Linux 5.9, or a container that hides the call.
        _ => close_each_from(first),
    };
    step("close descriptors", closed)
}

/// The same by the list of descriptors in `/proc`.
fn close_each_from(first: u32) -> io::Result<()> {
    let names = fs::read_dir("/proc/self/fd")?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    for open in names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok()) {
        if u32::try_from(open).is_ok_and(|open| open >= first) {
            // SAFETY: as in `close_from`. That of the list itself is closed already, which is an error
            // without effect.
            unsafe { libc::close(open) };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_closed_where_the_call_is_missing() {
        // SAFETY: the child closes what it has, says how that went by its exit code, and ends without
        // unwinding. It uses nothing that another thread may have held locked but the allocator, which
        // glibc unlocks in it.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            let is_open = |descriptor| {
                // SAFETY: asks for the flags of a number.
                unsafe { libc::fcntl(descriptor, libc::F_GETFD) >= 0 }
            };
            // SAFETY: copies standard error to numbers that nothing uses.
            let made = [50, 51, 900].iter().all(|to| unsafe { libc::dup2(2, *to) == *to });
            let closed = close_each_from(51).is_ok();
            let right = made && closed && is_open(50) && !is_open(51) && !is_open(900);
            // SAFETY: ends the process.
            unsafe { libc::_exit(i32::from(!right)) };
        }
        let mut status = 0;
        // SAFETY: waits for a child of this process.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(status, 0);
    }
}
