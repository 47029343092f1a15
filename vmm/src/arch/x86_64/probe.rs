//! What to ask a host's KVM for.

use kvm_ioctls::Cap;

/// Capabilities of KVM that this library makes use of: the name as in the kernel's documentation, the
/// capability, and whether machines cannot run without it.
pub const CAPABILITIES: [(&str, Cap, bool); 13] = [
    ("KVM_CAP_IRQCHIP", Cap::Irqchip, true),
    ("KVM_CAP_PIT2", Cap::Pit2, true),
    ("KVM_CAP_USER_MEMORY", Cap::UserMemory, true),
    ("KVM_CAP_EXT_CPUID", Cap::ExtCpuid, true),
    ("KVM_CAP_IMMEDIATE_EXIT", Cap::ImmediateExit, true),
    ("KVM_CAP_SYNC_REGS", Cap::SyncRegs, false),
    ("KVM_CAP_TSC_DEADLINE_TIMER", Cap::TscDeadlineTimer, false),
    ("KVM_CAP_XCRS", Cap::Xcrs, false),
    ("KVM_CAP_XSAVE2", Cap::Xsave2, false),
    ("KVM_CAP_X86_MSR_FILTER", Cap::X86MsrFilter, false),
    ("KVM_CAP_DIRTY_LOG_RING", Cap::DirtyLogRing, false),
    ("KVM_CAP_MAX_VCPUS", Cap::MaxVcpus, false),
    ("KVM_CAP_NR_MEMSLOTS", Cap::NrMemslots, false),
];
