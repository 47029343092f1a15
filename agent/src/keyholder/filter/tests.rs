use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::*;

/// Runs `call` in a child of its own under the filter, with a socket as descriptor 0, and gives the
/// signal that ended it, or its exit code.
///
/// The child is a copy of one thread of a test program with many, so it does nothing that allocates
/// or locks: only system calls.
fn under_filter(call: impl Fn()) -> Result<i32, i32> {
    let program = program().unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    std::io::Write::write_all(&mut ours, b"question").unwrap();
    // SAFETY: see above; the child ends in `_exit` or by a signal, and never returns.
    let child = unsafe {
        match libc::fork() {
            0 => {
                libc::dup2(theirs.as_raw_fd(), 0);
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                if seccompiler::apply_filter(&program).is_err() {
                    libc::_exit(99);
                }
                call();
                libc::_exit(7)
            }
            child => child,
        }
    };
    assert!(child > 0);
    let mut status = 0;
    // SAFETY: the child exists and `status` outlives the call.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    if libc::WIFSIGNALED(status) {
        Err(libc::WTERMSIG(status))
    } else {
        Ok(libc::WEXITSTATUS(status))
    }
}

/// A system call with up to three arguments; the result is of no interest.
fn raw(call: libc::c_long, arguments: [usize; 3]) {
    let [first, second, third] = arguments;
    // SAFETY: the callers pass nothing that the kernel would write to, or valid memory.
    unsafe { libc::syscall(call, first, second, third) };
}

#[test]
fn what_signing_needs_is_allowed() {
    let ended = under_filter(|| {
        let mut buffer = [0_u8; 16];
        // SAFETY: the buffer and the mapping belong to this child.
        unsafe {
            libc::read(0, buffer.as_mut_ptr().cast(), 8);
            libc::write(0, buffer.as_ptr().cast(), 8);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let memory = libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0);
            libc::munmap(memory, 4096);
            libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_REALTIME, buffer.as_mut_ptr(), 0);
        }
    });
    assert_eq!(ended, Ok(7));
}

#[test]
fn everything_else_ends_the_process() {
    let (other, _peer) = UnixStream::pair().unwrap();
    let other = other.as_raw_fd().unsigned_abs() as usize;
    let path = c"/etc/passwd".as_ptr() as usize;
    let calls: [(&str, libc::c_long, [usize; 3]); 12] = [
        ("open a file", libc::SYS_open, [path, 0, 0]),
        ("open a file at", libc::SYS_openat, [usize::MAX, path, 0]),
        ("write elsewhere", libc::SYS_write, [1, path, 1]),
        ("read elsewhere", libc::SYS_read, [other, 0, 0]),
        ("make a socket", libc::SYS_socket, [libc::AF_INET as usize, 1, 0]),
        ("pass a descriptor", libc::SYS_sendmsg, [0, 0, 0]),
        ("fork", libc::SYS_fork, [0, 0, 0]),
        ("start a program", libc::SYS_execve, [path, 0, 0]),
        ("look into another process", libc::SYS_ptrace, [0, 0, 0]),
        ("make itself readable", libc::SYS_prctl, [libc::PR_SET_DUMPABLE as usize, 1, 0]),
        ("allow code in memory", libc::SYS_mprotect, [0, 4096, libc::PROT_EXEC as usize]),
        ("read another clock", libc::SYS_clock_gettime, [libc::CLOCK_MONOTONIC as usize, 0, 0]),
    ];
    for (what, call, arguments) in calls {
        assert_eq!(under_filter(|| raw(call, arguments)), Err(libc::SIGSYS), "{what}");
    }
    let executable = under_filter(|| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: the kernel ends the child in this call.
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_EXEC, flags, -1, 0) };
    });
    assert_eq!(executable, Err(libc::SIGSYS));
    let file = under_filter(|| {
        // SAFETY: the kernel ends the child in this call.
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_PRIVATE, 0, 0) };
    });
    assert_eq!(file, Err(libc::SIGSYS));
}
