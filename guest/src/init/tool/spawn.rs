//! Fork and exec of a tool.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};

use guest::registry::Limits;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{ForkResult, Pid, execve, fork, pipe2};

use super::{Cgroup, Filters, NOT_STARTED, sandbox};

const ENVIRONMENT: [&str; 3] = ["PATH=/usr/bin:/bin", "HOME=/tmp", "LANG=C.UTF-8"];

/// A started child and the reading ends of its pipes, which do not block.
pub struct Child {
    pub pid: Pid,
    pub stdout: File,
    pub stderr: File,
    /// Says why the child could not become the tool; empty when it did.
    pub start_error: File,
}

/// Starts `argv` in `cgroup`.
pub fn spawn(
    argv: &[String],
    limits: &Limits,
    cgroup: &Cgroup,
    filters: &Filters,
) -> Result<Child, String> {
    let arguments: Vec<CString> = argv
        .iter()
        .map(|argument| CString::new(argument.as_str()))
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())?;
    let environment: Vec<CString> =
        ENVIRONMENT.iter().filter_map(|entry| CString::new(*entry).ok()).collect();
    let program = arguments.first().ok_or("an empty command line")?;

    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    let (start_error, mut error_end) = pipe()?;
    // SAFETY: this program has one thread, so the child may do anything until it executes.
    match unsafe { fork() }.map_err(|e| format!("cannot fork: {e}"))? {
        ForkResult::Parent { child } => Ok(Child { pid: child, stdout, stderr, start_error }),
        ForkResult::Child => {
            let streams = [stdout_end.as_raw_fd(), stderr_end.as_raw_fd()];
            let step = match sandbox::enter(streams, limits, &cgroup.processes_file(), filters) {
                Ok(()) => match execve(program, &arguments, &environment) {
                    Ok(never) => match never {},
                    Err(e) => format!("cannot execute {}: {e}", argv.first().map_or("", |p| p)),
                },
                Err(step) => step,
            };
            let _ = error_end.write_all(step.as_bytes());
            // SAFETY: ends the child at once, without running anything of the parent's.
            unsafe { libc::_exit(NOT_STARTED) }
        }
    }
}

/// A pipe whose reading end does not block. Both ends close when a program is executed.
fn pipe() -> Result<(File, File), String> {
    let (read, write): (OwnedFd, OwnedFd) =
        pipe2(OFlag::O_CLOEXEC).map_err(|e| format!("cannot create a pipe: {e}"))?;
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| e.to_string())?;
    Ok((File::from(read), File::from(write)))
}
