//! One vCPU: creation, entry state, inspection.

use std::sync::{Arc, OnceLock};

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_UNINITIALIZED, Msrs, kvm_lapic_state, kvm_msr_entry,
    kvm_regs,
};
use kvm_ioctls::VcpuFd;

use super::dirty_ring::DirtyRing;
use super::{CpuidTemplate, DirtyEntry, DirtyTracking, KvmError, Vm};
use crate::boot;
use crate::memory::layout;

/// `IA32_MISC_ENABLE` and its fast-string bit (Intel SDM volume 4).
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
/// `IA32_MTRR_DEF_TYPE`: MTRRs on, write-back by default.
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE_WRITE_BACK: u64 = (1 << 11) | 6;
/// Local vector table registers (Intel SDM volume 3, "Local APIC").
const APIC_LVT0: usize = 0x350;
const APIC_LVT1: usize = 0x360;
const APIC_MODE_NMI: u32 = 0x4;
const APIC_MODE_EXT_INT: u32 = 0x7;
/// Reserved bit 1 of RFLAGS is always set; interrupts are off at entry.
const RFLAGS_AT_ENTRY: u64 = 2;

/// How a vCPU comes to life.
#[derive(Debug, Clone, Copy)]
pub enum VcpuRole {
    /// The bootstrap processor: starts at `entry` with `boot_params` in RSI.
    Bootstrap {
        /// Guest-physical address of the 64-bit entry point.
        entry: u64,
    },
    /// Waits for the kernel's start-up interrupt.
    Application,
}

/// `KVM_GET_MP_STATE` (api.rst 4.38).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
pub struct VcpuStatus {
    /// Index, equal to the APIC id.
    pub index: u8,
    /// Multiprocessing state.
    pub mp_state: MpState,
    /// Instruction pointer.
    pub rip: u64,
    /// Flags register.
    pub rflags: u64,
}

/// A vCPU descriptor with its index.
pub struct Vcpu {
    pub(super) fd: VcpuFd,
    pub(super) ring: Option<DirtyRing>,
    /// Frequency of the guest's TSC, which only the host could change.
    pub(super) tsc_khz: OnceLock<u64>,
    /// Whether KVM leaves registers in `kvm_run` when it is asked to.
    pub(super) leaves_registers: Option<bool>,
    index: u8,
}

impl Vcpu {
    /// Creates vCPU `index` of `vm` and gives it its CPUID.
    pub fn create(vm: &Vm, index: u8, cpuid: &CpuidTemplate) -> Result<Self, KvmError> {
        let fd =
            vm.fd().create_vcpu(u64::from(index)).map_err(KvmError::ioctl("KVM_CREATE_VCPU"))?;
        fd.set_cpuid2(&cpuid.for_vcpu(index)?).map_err(KvmError::ioctl("KVM_SET_CPUID2"))?;
        let ring = match vm.tracking() {
            DirtyTracking::Ring => Some(DirtyRing::of(Arc::clone(vm.fd()), &fd)?),
            DirtyTracking::Log => None,
        };
        Ok(Self { fd, ring, tsc_khz: OnceLock::new(), leaves_registers: None, index })
    }

    /// Moves the pages in this vCPU's dirty ring, if it has one, to `pages`. The vCPU must be out
    /// of the guest, and [`super::reset_rings`] has to follow.
    pub fn drain_ring(&mut self, pages: &mut Vec<DirtyEntry>) -> Result<(), KvmError> {
        self.ring.as_mut().map_or(Ok(()), |ring| ring.drain(pages))
    }

    /// Sets MSRs, local APIC and, on the bootstrap processor, the registers for entry.
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

    /// Starts this vCPU in long mode at `entry` with `rsi` in RSI.
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

    /// Changes one bit of RBX, for tests of what notices. The vCPU must have settled.
    pub fn flip_register(&self) -> Result<(), KvmError> {
        let mut regs = self.fd.get_regs().map_err(KvmError::ioctl("KVM_GET_REGS"))?;
        regs.rbx ^= 1;
        self.fd.set_regs(&regs).map_err(KvmError::ioctl("KVM_SET_REGS"))
    }

    /// Changes one bit of an MSR, for tests of what notices.
    pub fn flip_msr(&self, msr: kvm_msr_entry) -> Result<(), KvmError> {
        for found in super::msrs::read(&self.fd, &[msr.index])? {
            self.set_msrs(&[(found.index, found.data ^ 1)])?;
        }
        Ok(())
    }

    fn set_msrs(&self, values: &[(u32, u64)]) -> Result<(), KvmError> {
        let entries: Vec<kvm_msr_entry> = values
            .iter()
            .map(|(index, data)| kvm_msr_entry { index: *index, data: *data, ..Default::default() })
            .collect();
        let msrs = Msrs::from_entries(&entries).map_err(|e| KvmError::Ioctl {
            ioctl: "KVM_SET_MSRS",
            source: std::io::Error::other(format!("{e:?}")),
        })?;
        let set = self.fd.set_msrs(&msrs).map_err(KvmError::ioctl("KVM_SET_MSRS"))?;
        // The ioctl stops at the first MSR it does not know and says how far it came.
        match values.get(set) {
            Some((refused, _)) => Err(KvmError::Msr(*refused)),
            None => Ok(()),
        }
    }

    fn wire_local_interrupts(&self) -> Result<(), KvmError> {
        let mut lapic = self.fd.get_lapic().map_err(KvmError::ioctl("KVM_GET_LAPIC"))?;
        set_delivery_mode(&mut lapic, APIC_LVT0, APIC_MODE_EXT_INT);
        set_delivery_mode(&mut lapic, APIC_LVT1, APIC_MODE_NMI);
        self.fd.set_lapic(&lapic).map_err(KvmError::ioctl("KVM_SET_LAPIC"))
    }
}

/// Bits 8 to 10 of a local vector table register.
fn set_delivery_mode(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    if let Some(bytes) = lapic.regs.get_mut(register..register + 4) {
        let value = bytes
            .iter()
            .rev()
            .fold(0_u32, |value, byte| (value << 8) | u32::from(byte.cast_unsigned()));
        let value = (value & !0x700) | (mode << 8);
        for (slot, byte) in bytes.iter_mut().zip(value.to_le_bytes()) {
            *slot = byte.cast_signed();
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_mode_leaves_the_other_bits() {
        let mut lapic = kvm_lapic_state::default();
        lapic.regs[APIC_LVT0 + 2] = 1;
        set_delivery_mode(&mut lapic, APIC_LVT0, APIC_MODE_EXT_INT);
        assert_eq!(lapic.regs[APIC_LVT0 + 1], 7);
        assert_eq!(lapic.regs[APIC_LVT0 + 2], 1);
    }
}
