//! System calls by number, so that nothing between the attack and the kernel has an opinion.

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// What the kernel said.
pub type Answer = Result<i64, Errno>;

/// Makes a system call; arguments that are not given are zero.
pub fn call<const N: usize>(number: libc::c_long, arguments: [i64; N]) -> Answer {
    let mut all = [0; 6];
    for (slot, argument) in all.iter_mut().zip(arguments) {
        *slot = argument;
    }
    let [first, second, third, fourth, fifth, sixth] = all;
    // SAFETY: addresses among the arguments are of memory the caller keeps for the call, or are
    // wrong on purpose, which the kernel reports.
    let result = unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) };
    if result == -1 { Err(Errno::last()) } else { Ok(result) }
}

/// Address of a value that the kernel reads, for [`call`].
pub fn address<T: ?Sized>(value: &T) -> i64 {
    std::ptr::from_ref(value).cast::<u8>() as i64
}

/// A length for [`call`].
pub fn length(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Opens a file; the descriptor stays open.
pub fn open(path: &str, flags: libc::c_int) -> Answer {
    let path = format!("{path}\0");
    call(libc::SYS_openat, [libc::AT_FDCWD.into(), address(path.as_str()), flags.into(), 0])
}

/// Closes a descriptor.
pub fn close(descriptor: i64) {
    let _ = call(libc::SYS_close, [descriptor]);
}

/// A child: `None` in the child itself.
pub fn fork() -> Result<Option<i64>, Errno> {
    call(libc::SYS_fork, []).map(|child| (child != 0).then_some(child))
}

/// Waits for a child, and says how it ended.
pub fn wait(child: i64) -> Result<WaitStatus, Errno> {
    let child = i32::try_from(child).map_err(|_| Errno::ESRCH)?;
    waitpid(Pid::from_raw(child), None)
}

/// Ends this process at once.
pub fn exit_now(code: i64) -> ! {
    loop {
        let _ = call(libc::SYS_exit_group, [code]);
    }
}

/// Sleeps for ever, whatever the signals.
pub fn sleep_for_ever() -> ! {
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}

/// A call number of the 32-bit interface, made with the old interrupt. A kernel without it kills
/// the caller, so call this in a child.
pub fn call_32(number: u32, first: u32, second: u32) -> i32 {
    let result: i32;
    // SAFETY: the arguments are integers; `rbx` is saved by hand because the compiler uses it.
    unsafe {
        std::arch::asm!(
            "push rbx", "mov ebx, {first:e}", "int 0x80", "pop rbx",
            first = in(reg) first, inlateout("eax") number => result, in("ecx") second,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    result
}
