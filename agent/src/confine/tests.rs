mod threads;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::*;

/// How a child ended that confined itself and then did something.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It came to its end and said this.
    Said(u8),
    /// A signal ended it.
    Signal(i32),
}

/// Runs `task` in a child process, because what is given up cannot be had back.
fn in_child(task: impl FnOnce() -> u8) -> End {
    let (mut reader, writer) = std::io::pipe().unwrap();
    // SAFETY: the child uses nothing that another thread may have held locked but the allocator,
    // which glibc unlocks in it, and ends without unwinding.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(task)).unwrap_or(255);
        let _ = rustix::io::write(&writer, &[said]);
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) };
    }
    drop(writer);
    let mut said = Vec::new();
    reader.read_to_end(&mut said).unwrap();
    let mut status = 0;
    // SAFETY: waits for a child of this process.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    if libc::WIFSIGNALED(status) {
        return End::Signal(libc::WTERMSIG(status));
    }
    End::Said(said[0])
}

fn call(number: libc::c_long) -> i32 {
    // SAFETY: the calls made here fail for their arguments where they are let through.
    match unsafe { libc::syscall(number, -1_i64, 0_i64, 0_i64, 0_i64) } {
        -1 => std::io::Error::last_os_error().raw_os_error().unwrap_or_default(),
        _ => 0,
    }
}

fn confined(task: impl FnOnce() -> u8) -> End {
    in_child(|| {
        confine(&Files::default()).unwrap();
        task()
    })
}

#[test]
fn what_no_agent_does_ends_it() {
    let calls = [
        libc::SYS_execve,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_bpf,
        libc::SYS_mount,
        libc::SYS_unshare,
        libc::SYS_init_module,
        libc::SYS_keyctl,
        libc::SYS_io_uring_setup,
        libc::SYS_fork,
    ];
    for number in calls {
        let end = confined(|| u8::from(call(number) == 0));
        assert_eq!(end, End::Signal(libc::SIGSYS), "call {number}");
    }
    // The same without the filter: it is the filter that ends it.
    assert_eq!(in_child(|| u8::from(call(libc::SYS_ptrace) == 0)), End::Said(0));
}

/// What is in no list is refused, whatever it is, and the same call is made without the filter.
#[test]
fn a_call_that_is_not_in_the_list_is_refused() {
    let errno = |number| move || u8::try_from(call(number)).unwrap();
    for number in [
        libc::SYS_clone3,
        libc::SYS_inotify_init1,
        libc::SYS_shmget,
        libc::SYS_landlock_create_ruleset,
    ] {
        assert_eq!(confined(errno(number)), End::Said(libc::ENOSYS as u8), "{number}");
        assert_ne!(in_child(errno(number)), End::Said(libc::ENOSYS as u8), "{number}");
    }
}

/// Kernels without the x32 convention refuse such a call, and the filter ends the process before.
#[test]
fn a_call_of_another_convention_ends_the_process() {
    for number in [libc::SYS_getpid, libc::SYS_execve, libc::SYS_socket] {
        let x32 = number | 0x4000_0000;
        assert_eq!(confined(|| u8::from(call(x32) == 0)), End::Signal(libc::SIGSYS), "{number}");
        let without = in_child(|| {
            calls::install(&calls::process().unwrap()[1..]).unwrap();
            u8::from(call(x32) == 0)
        });
        assert_eq!(without, End::Said(0), "the filter in front ends it");
    }
}

/// A process that is not dumpable belongs to root in `/proc`.
#[test]
fn an_ordinary_user_reads_its_page_tables_after_it_was_confined() {
    const NOBODY: u32 = 65534;
    let become_user = || {
        // SAFETY: change the user of this child alone.
        unsafe {
            libc::setresgid(NOBODY, NOBODY, NOBODY) == 0
                && libc::setresuid(NOBODY, NOBODY, NOBODY) == 0
        }
    };
    // SAFETY: asks for the user.
    let root = unsafe { libc::geteuid() } == 0;
    let dumpable =
        || rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable);
    let opened = in_child(|| {
        assert!(!root || (become_user() && dumpable().is_ok()));
        let in_force = confine(&Files::default()).unwrap();
        u8::from(in_force.page_tables)
            | u8::from(vmm::open_page_tables().is_ok()) << 1
            | u8::from(File::open("/proc/self/pagemap").is_err()) << 2
    });
    assert_eq!(opened, End::Said(0b111));
    let too_late = in_child(|| {
        assert!(!root || become_user());
        rights::limit().unwrap();
        u8::from(confine(&Files::default()).unwrap().page_tables)
    });
    assert_eq!(too_late, End::Said(0), "what cannot be opened is reported");
}

#[test]
fn a_process_is_refused_and_a_thread_is_not() {
    let process = confined(|| {
        // SAFETY: as in `in_child`; the filter is expected to end this process.
        let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
        u8::from(pid > 0)
    });
    assert_eq!(process, End::Signal(libc::SIGSYS));
    let thread = confined(|| std::thread::spawn(|| 7).join().unwrap());
    assert_eq!(thread, End::Said(7));
}

#[test]
fn files_of_others_are_out_of_reach() {
    let directory = tempfile::tempdir().unwrap();
    let (own, other) = (directory.path().join("own"), directory.path().join("other"));
    for place in [&own, &other] {
        std::fs::create_dir(place).unwrap();
        std::fs::write(place.join("file"), "x").unwrap();
    }
    let files = Files { written: vec![own.clone()], read: Vec::new() };
    let can = |place: &Path| {
        u8::from(std::fs::write(place.join("new"), "y").is_ok())
            | u8::from(File::open(place.join("file")).is_ok()) << 1
    };
    let end = in_child(|| match confine(&files).unwrap().landlock {
        Landlock::Absent => 0xf0,
        Landlock::Full | Landlock::Partial => can(&own) | can(&other) << 2,
    });
    // Where the kernel has no Landlock there is nothing to see; `status` says so.
    assert!(matches!(end, End::Said(0b0011 | 0xf0)), "{end:?}");
    assert_eq!(in_child(|| can(&own) | can(&other) << 2), End::Said(0b1111));
}

#[test]
fn a_file_is_reached_through_links_and_after_a_rename() {
    let root = tempfile::tempdir().unwrap();
    let (real, link, other) =
        (root.path().join("real/ca.pem"), root.path().join("link"), root.path().join("other"));
    std::fs::create_dir(root.path().join("real")).unwrap();
    std::fs::write(&real, "x").unwrap();
    std::fs::write(&other, "x").unwrap();
    std::os::unix::fs::symlink("real/ca.pem", &link).unwrap();
    let (tell, told) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    let files = Files { written: Vec::new(), read: vec![link.clone()] };
    // Another process replaces the file once this one is confined.
    let replace = std::thread::spawn({
        let (mut ready, mut done) = (tell.0.try_clone().unwrap(), told.1.try_clone().unwrap());
        move || {
            ready.read_exact(&mut [0]).unwrap();
            let new = real.with_extension("new");
            std::fs::write(&new, "y").unwrap();
            std::fs::rename(&new, &real).unwrap();
            std::io::Write::write_all(&mut done, b"1").unwrap();
        }
    });
    let (ready, mut done) = (tell.1, told.0);
    let end = in_child(|| {
        let in_force = confine(&files).unwrap();
        let before = File::open(&link).is_ok();
        rustix::io::write(&ready, b"1").unwrap();
        done.read_exact(&mut [0]).unwrap();
        let after = std::fs::read(&link).is_ok_and(|text| text == b"y");
        let hidden = in_force.landlock == Landlock::Absent || File::open(&other).is_err();
        u8::from(before) | u8::from(after) << 1 | u8::from(hidden) << 2
    });
    replace.join().unwrap();
    assert_eq!(end, End::Said(0b111));
}

#[test]
fn nothing_is_left_of_capabilities() {
    let left = in_child(|| {
        let in_force = confine(&Files::default()).unwrap();
        u8::from(in_force.capabilities == 0 && in_force.no_new_privileges)
    });
    assert_eq!(left, End::Said(1));
}

#[test]
fn a_vcpu_thread_may_little() {
    let end = in_child(|| {
        calls::install(&[calls::vcpu().unwrap()]).unwrap();
        let refused = |errno: i32| u8::from(errno == libc::EPERM);
        let socket = refused(call(libc::SYS_socket));
        let kill = refused(call(libc::SYS_kill)) << 1;
        let write = u8::from(File::create("/dev/null").is_err()) << 2;
        // Let through: there is no such descriptor.
        let ioctl = |request: libc::Ioctl| {
            // SAFETY: no descriptor, no effect.
            let result = unsafe { libc::ioctl(-1, request, 0) };
            (result, std::io::Error::last_os_error().raw_os_error().unwrap_or_default())
        };
        let kvm = u8::from(ioctl(0xae80) == (-1, libc::EBADF)) << 3;
        let terminal = u8::from(ioctl(0x5412) == (-1, libc::EPERM)) << 4;
        socket | kill | write | kvm | terminal
    });
    assert_eq!(end, End::Said(0b1_1111));
}
