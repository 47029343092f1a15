//! Ways to outlive a deadline.

use std::process::ExitCode;

use nix::errno::Errno;

use crate::log::Log;
use crate::system::{address, call, exit_now, fork, length, sleep_for_ever};

/// Says that it runs, then tries to stay.
pub fn run(how: &str) -> ExitCode {
    println!("holding {how}");
    let kept = match how {
        "control" => return Log::new("hold").print(),
        "ignores-signals" => ignore_signals(),
        "spins" => spin(),
        "stopped" => {
            call(libc::SYS_kill, [std::process::id().into(), libc::SIGSTOP.into()]).map(drop)
        }
        "grandchild" => grandchild(),
        "daemon" => daemon(),
        "chain" => chain(),
        "kernel" => in_the_kernel(),
        "freeze-init" => freeze_init(),
        _ => return ExitCode::from(2),
    };
    match kept {
        Ok(()) => sleep_for_ever(),
        Err(errno) => {
            eprintln!("attack: {how}: {errno}");
            ExitCode::FAILURE
        }
    }
}

fn ignore_signals() -> Result<(), Errno> {
    for signal in 1..=64 {
        // SIG_IGN, in `struct kernel_sigaction`.
        let action = [1_u64, 0, 0, 0];
        let _ = call(libc::SYS_rt_sigaction, [signal, address(&action), 0, 8]);
    }
    let all = u64::MAX;
    call(libc::SYS_rt_sigprocmask, [libc::SIG_BLOCK.into(), address(&all), 0, 8]).map(drop)
}

fn spin() -> ! {
    for _ in 0..8 {
        std::thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
    }
    loop {
        std::hint::spin_loop();
    }
}

/// The tool ends; what it started holds its output open.
fn grandchild() -> Result<(), Errno> {
    match fork()? {
        None => sleep_for_ever(),
        Some(_) => exit_now(0),
    }
}

/// A session of its own, away from its parent; the tool itself stays too.
fn daemon() -> Result<(), Errno> {
    if fork()?.is_none() {
        let _ = call(libc::SYS_setsid, []);
        let _ = ignore_signals();
        if fork()?.is_some() {
            exit_now(0);
        }
        sleep_for_ever();
    }
    Ok(())
}

/// Always another process: who kills by number comes too late.
fn chain() -> Result<(), Errno> {
    if fork()?.is_some() {
        return Ok(());
    }
    loop {
        match fork() {
            Ok(None) | Err(_) => {}
            Ok(Some(_)) => exit_now(0),
        }
    }
}

/// System calls that take long and hear of signals late.
fn in_the_kernel() -> Result<(), Errno> {
    let mut buffer = vec![0_u8; 16 << 20];
    loop {
        call(libc::SYS_getrandom, [address(buffer.as_mut_slice()), length(buffer.len()), 0])?;
    }
}

/// Stops the program that enforces deadlines. Needs rights that tools do not have.
fn freeze_init() -> Result<(), Errno> {
    const PTRACE_SEIZE: i64 = 0x4206;
    const PTRACE_INTERRUPT: i64 = 0x4207;
    call(libc::SYS_ptrace, [PTRACE_SEIZE, 1, 0, 0])?;
    call(libc::SYS_ptrace, [PTRACE_INTERRUPT, 1, 0, 0]).map(drop)
}
