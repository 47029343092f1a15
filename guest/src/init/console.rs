//! The serial console: for what went wrong, and one line when all is well.

use std::fs::{File, OpenOptions};
use std::io::{Write, stderr};
use std::os::fd::AsRawFd;

use nix::mount::{MsFlags, mount};

/// The root file system has no device nodes, so the kernel gave PID 1 no console. Without
/// standard streams the first files it opens would become them.
pub fn open() {
    let _ = mount(Some("devtmpfs"), "/dev", Some("devtmpfs"), MsFlags::MS_NOSUID, None::<&str>);
    let open = |path| OpenOptions::new().read(true).write(true).open(path);
    if let Ok(console) = open("/dev/console").or_else(|_| open("/dev/null")) {
        take_standard_streams(console);
    }
}

fn take_standard_streams(file: File) {
    for stream in 0..3 {
        // SAFETY: duplicates an open descriptor over the standard streams, which nothing in this
        // process has opened yet.
        unsafe { libc::dup2(file.as_raw_fd(), stream) };
    }
    if file.as_raw_fd() < 3 {
        std::mem::forget(file);
    }
}

/// Prints one line. PID 1 goes on when the console cannot be written, where `eprintln` would panic.
pub fn print(line: &str) {
    let _ = writeln!(stderr(), "guest-init: {line}");
}
