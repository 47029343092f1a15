//! A vCPU: creation, state at the first instruction, status.

use std::sync::OnceLock;

use kvm_bindings::{
    KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_UNINITIALIZED, kvm_enable_cap,
    kvm_msr_entry, kvm_regs,
};
use kvm_ioctls::{VcpuFd, VmFd};

use super::{CpuidTemplate, boot, lapic, layout, msrs};
use crate::ioctl::KvmError;

/// `IA32_MISC_ENABLE` and its fast-string bit (Intel SDM volume 4).
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
/// `IA32_MTRR_DEF_TYPE`: MTRRs on, write-back by default.
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE_WRITE_BACK: u64 = (1 << 11) | 6;
/// Reserved bit 1 of RFLAGS is always set; interrupts are off at entry.
const RFLAGS_AT_ENTRY: u64 = 2;

/// How a vCPU starts.
#[derive(Debug, Clone, Copy)]
pub enum VcpuRole {
    /// The bootstrap processor: starts at `entry` with `boot_params` in RSI.
    Bootstrap {
        /// Guest-physical address of the 64-bit entry point.
        entry: u64,
    },
    /// An application processor: waits for the kernel's start-up interrupt.
    Application,
}

/// What a vCPU is doing, as `KVM_GET_MP_STATE` says (api.rst 4.38).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MpState {
    /// Executing guest code, or ready to.
    Runnable,
    /// Waiting for an interrupt after `HLT`.
    Halted,
    /// An application processor the guest has not started.
    Uninitialized,
    /// Between INIT and SIPI.
    Starting,
    /// A state this program does not expect.
    Other(u32),
}

/// What KVM says about one vCPU.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VcpuStatus {
    /// Index of the vCPU, equal to its APIC id.
    pub index: u8,
    /// Multiprocessing state.
    pub mp_state: MpState,
    /// Instruction pointer.
    pub rip: u64,
    /// Flags register.
    pub rflags: u64,
}

/// A vCPU's descriptor, and what this architecture remembers of the vCPU.
pub struct ArchVcpu {
    /// The descriptor.
    pub fd: VcpuFd,
    /// Frequency of the guest's TSC in kHz, which only the host could change.
    pub(super) tsc_khz: OnceLock<u64>,
    /// Whether KVM leaves registers in `kvm_run` when it is asked to; `None` until it was tried.
    pub(super) leaves_registers: Option<bool>,
    /// True when the next entry begins another command than the last one.
    pub(super) barrier_due: bool,
    index: u8,
}

impl ArchVcpu {
    /// Creates vCPU `index` of `vm` and gives it its CPUID.
    ///
    /// # Errors
    ///
    /// KVM refuses the vCPU or its CPUID.
    pub fn create(vm: &VmFd, index: u8, cpuid: &CpuidTemplate) -> Result<Self, KvmError> {
        let fd = vm.create_vcpu(u64::from(index)).map_err(KvmError::ioctl("KVM_CREATE_VCPU"))?;
        fd.set_cpuid2(&cpuid.for_vcpu(index)?).map_err(KvmError::ioctl("KVM_SET_CPUID2"))?;
        enforce_paravirtual_features(vm, &fd)?;
        Ok(Self { fd, tsc_khz: OnceLock::new(), leaves_registers: None, barrier_due: false, index })
    }

    /// Sets MSRs, local APIC and, on the bootstrap processor, the registers for entry.
    ///
    /// # Errors
    ///
    /// KVM refuses a register.
    pub fn prepare(&self, role: VcpuRole) -> Result<(), KvmError> {
        self.set_msrs(&[
            (MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
            (MSR_MTRR_DEF_TYPE, MTRR_ENABLE_WRITE_BACK),
        ])?;
        if let VcpuRole::Bootstrap { entry } = role {
            self.enter_at(entry, layout::ZERO_PAGE)?;
        }
        self.wire_local_interrupts()
    }

    /// Sets the registers with which the vCPU starts: in long mode at the guest-physical address
    /// `entry`, with `rsi` in RSI.
    ///
    /// # Errors
    ///
    /// KVM refuses to read or to write registers.
    pub fn enter_at(&self, entry: u64, rsi: u64) -> Result<(), KvmError> {
        let mut sregs = self.fd.get_sregs().map_err(KvmError::ioctl("KVM_GET_SREGS"))?;
        boot::enter_long_mode(&mut sregs);
        self.fd.set_sregs(&sregs).map_err(KvmError::ioctl("KVM_SET_SREGS"))?;
        let regs = kvm_regs {
            rip: entry,
            rsi,
            rsp: layout::BOOT_STACK,
            rbp: layout::BOOT_STACK,
            rflags: RFLAGS_AT_ENTRY,
            ..Default::default()
        };
        self.fd.set_regs(&regs).map_err(KvmError::ioctl("KVM_SET_REGS"))
    }

    /// Reads the vCPU's state from KVM. The vCPU must not be in `KVM_RUN`: KVM would make the
    /// caller wait for it.
    pub fn status(&self) -> Result<VcpuStatus, KvmError> {
        let mp_state = self.fd.get_mp_state().map_err(KvmError::ioctl("KVM_GET_MP_STATE"))?;
        let regs = self.fd.get_regs().map_err(KvmError::ioctl("KVM_GET_REGS"))?;
        Ok(VcpuStatus {
            index: self.index,
            mp_state: MpState::from(mp_state.mp_state),
            rip: regs.rip,
            rflags: regs.rflags,
        })
    }

    fn set_msrs(&self, values: &[(u32, u64)]) -> Result<(), KvmError> {
        let entries: Vec<kvm_msr_entry> = values
            .iter()
            .map(|(index, data)| kvm_msr_entry { index: *index, data: *data, ..Default::default() })
            .collect();
        msrs::write(&self.fd, &msrs::collection(&entries)?)
    }

    fn wire_local_interrupts(&self) -> Result<(), KvmError> {
        let mut lapic = self.fd.get_lapic().map_err(KvmError::ioctl("KVM_GET_LAPIC"))?;
        lapic::set_delivery_mode(&mut lapic, lapic::LVT_LINT0, lapic::MODE_EXT_INT);
        lapic::set_delivery_mode(&mut lapic, lapic::LVT_LINT1, lapic::MODE_NMI);
        self.fd.set_lapic(&lapic).map_err(KvmError::ioctl("KVM_SET_LAPIC"))
    }
}

/// Has KVM refuse a guest the hypercalls and MSRs of features that its CPUID does not offer
/// (api.rst 7.21). KVMs before Linux 5.11 cannot: there the filter refuses the MSRs alone.
fn enforce_paravirtual_features(vm: &VmFd, vcpu: &VcpuFd) -> Result<(), KvmError> {
    if vm.check_extension_raw(KVM_CAP_ENFORCE_PV_FEATURE_CPUID.into()) <= 0 {
        return Ok(());
    }
    let mut capability =
        kvm_enable_cap { cap: KVM_CAP_ENFORCE_PV_FEATURE_CPUID, ..Default::default() };
    capability.args[0] = 1;
    vcpu.enable_cap(&capability)
        .map_err(KvmError::ioctl("KVM_ENABLE_CAP(ENFORCE_PV_FEATURE_CPUID)"))
}

impl From<u32> for MpState {
    fn from(value: u32) -> Self {
        match value {
            KVM_MP_STATE_RUNNABLE => Self::Runnable,
            KVM_MP_STATE_HALTED => Self::Halted,
            KVM_MP_STATE_UNINITIALIZED => Self::Uninitialized,
            KVM_MP_STATE_INIT_RECEIVED | KVM_MP_STATE_SIPI_RECEIVED => Self::Starting,
            other => Self::Other(other),
        }
    }
}
