//! System calls: those that end the process, and those that are left to threads of vCPUs.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use libc::{c_int, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

use super::{ConfineError, step};

pub type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Bits 8 to 15 of an ioctl's number say whose it is (ioctl(2)): KVM's, and those of a page table.
const IOCTL_TYPE: u64 = 0xff00;
pub const KVM_IOCTLS: u64 = 0xae00;
/// `_IOWR('f', 16, struct pm_scan_arg)`, linux/fs.h.
const PAGEMAP_SCAN: u64 = 0xc060_6610;

/// No agent that serves makes these, whatever it is asked to do.
const NEVER: &[c_long] = &[
    // Other programs and processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_personality,
    // Namespaces and mounts.
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    // The machine's name and clock.
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
];

/// What every thread does: handle memory, wait for others and wake them, read and write what it was
/// given, such as the log, hear signals, and panic or end in an orderly way.
pub const OF_THREADS: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_poll,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

/// What a thread of a vCPU does beside that and calling KVM.
const OF_VCPUS: &[c_long] = &[libc::SYS_epoll_ctl, libc::SYS_ppoll];

static VCPU_FILTER: OnceLock<BpfProgram> = OnceLock::new();

/// Filters of the whole process: put them in force in this order, as each must be let through by
/// those before.
pub fn process() -> Result<Vec<BpfProgram>, ConfineError> {
    let programs = || {
        Ok(vec![
            other_calling_conventions(),
            compile(never()?, SeccompAction::Allow, SeccompAction::KillProcess)?,
        ])
    };
    step::<_, BackendError>("compile the filters", programs())
}

/// The filter for threads of vCPUs: other calls than theirs are refused, and those that end the
/// process still do.
pub fn vcpu() -> Result<BpfProgram, ConfineError> {
    let program = || {
        let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
        compile(of_vcpus()?, refused, SeccompAction::Allow)
    };
    step::<_, BackendError>("compile the vCPUs' filter", program())
}

/// Puts filters in force for the calling thread and those it starts.
pub fn install(programs: &[BpfProgram]) -> Result<(), ConfineError> {
    for program in programs {
        step("install a filter", seccompiler::apply_filter(program))?;
    }
    Ok(())
}

/// Has every thread of a vCPU start with its filter. False when the program has asked for
/// something already.
pub fn guard_vcpu_threads() -> Result<bool, ConfineError> {
    let program = vcpu()?;
    Ok(VCPU_FILTER.set(program).is_ok() && vmm::at_vcpu_thread_start(enter_vcpu_thread))
}

fn enter_vcpu_thread() {
    let installed = VCPU_FILTER.get().map(|program| seccompiler::apply_filter(program));
    // Without its filter no guest runs on this thread.
    assert!(matches!(installed, Some(Ok(()))), "the filter of a vCPU's thread: {installed:?}");
}

fn never() -> Result<Rules, BackendError> {
    let mut rules: Rules = NEVER.iter().map(|call| (*call, Vec::new())).collect();
    // A thread shares everything with its process; what does not is a new process, or one in
    // another namespace.
    let flag = |flag: c_int| u64::from(flag.cast_unsigned());
    let process = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(flag(libc::CLONE_THREAD)),
        0,
    )?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![process])?]);
    Ok(rules)
}

fn of_vcpus() -> Result<Rules, BackendError> {
    let calls = OF_THREADS.iter().chain(OF_VCPUS);
    let mut rules: Rules = calls.map(|call| (*call, Vec::new())).collect();
    let ioctls = vec![ioctls_of(KVM_IOCTLS)?, argument(1, SeccompCmpOp::Eq, PAGEMAP_SCAN)?];
    rules.insert(libc::SYS_ioctl, ioctls);
    // No code.
    rules.insert(libc::SYS_mmap, vec![without(2, libc::PROT_EXEC)?]);
    rules.insert(libc::SYS_mprotect, vec![without(2, libc::PROT_EXEC)?]);
    // To read.
    let writes = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;
    rules.insert(libc::SYS_openat, vec![without(2, writes)?]);
    Ok(rules)
}

/// Where an argument's lower half compares like this.
fn argument(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    let dword = SeccompCmpArgLen::Dword;
    SeccompRule::new(vec![SeccompCondition::new(index, dword, operator, value)?])
}

/// Where none of these bits of an argument is set.
pub fn without(index: u8, bits: c_int) -> Result<SeccompRule, BackendError> {
    argument(index, SeccompCmpOp::MaskedEq(u64::from(bits.cast_unsigned())), 0)
}

/// All ioctls of one type.
pub fn ioctls_of(kind: u64) -> Result<SeccompRule, BackendError> {
    argument(1, SeccompCmpOp::MaskedEq(IOCTL_TYPE), kind)
}

/// Ends the process at a call of the x32 convention. Such a call has the number of another one with a
/// bit beside it, so it would pass by every rule that names that number. The other filters end calls of
/// the 32-bit convention, which has an architecture of its own.
pub fn other_calling_conventions() -> BpfProgram {
    /// `__X32_SYSCALL_BIT`, asm/unistd.h.
    const X32_BIT: u32 = 0x4000_0000;
    let kill = u32::from(SeccompAction::KillProcess);
    let allow = u32::from(SeccompAction::Allow);
    let filter = |code: u32, jf: u8, k: u32| sock_filter { code: code as u16, jt: 0, jf, k };
    vec![
        // Offset 0 of `struct seccomp_data`: the number of the call.
        filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        filter(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 1, X32_BIT),
        filter(libc::BPF_RET | libc::BPF_K, 0, kill),
        filter(libc::BPF_RET | libc::BPF_K, 0, allow),
    ]
}

pub fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    on_match: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, otherwise, on_match, TargetArch::x86_64)?.try_into()
}
