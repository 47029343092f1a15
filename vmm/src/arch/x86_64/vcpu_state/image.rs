//! A captured state in the form in which the kernel takes it.

use kvm_bindings::{Msrs, kvm_msr_entry};

use super::VcpuState;
use crate::arch::x86_64::msrs;
use crate::ioctl::KvmError;

/// What a restore writes, prepared once per golden state, so that a reset allocates nothing.
pub struct VcpuImage {
    state: VcpuState,
    /// Every MSR but the TSC.
    all: Msrs,
    /// The TSC first, and every other MSR: for reading them.
    all_and_tsc: Msrs,
    /// The MSRs that a reset restores.
    restored: Msrs,
    /// The TSC, and the MSRs that a reset restores.
    restored_and_tsc: Msrs,
    /// The timer's deadline, if one was set.
    deadline: Option<Msrs>,
    /// MSRs that a guest in this state may write.
    open: Vec<u32>,
}

impl VcpuImage {
    /// Prepares `state` for being restored often.
    ///
    /// # Errors
    ///
    /// The state holds more MSRs than one call of KVM takes, or lacks one that a guest may write and
    /// every processor has.
    pub fn new(state: VcpuState) -> Result<Self, KvmError> {
        let open = msrs::writable(&state.msrs)?;
        let restored: Vec<kvm_msr_entry> =
            state.msrs.iter().copied().filter(|entry| msrs::is_put_back(entry.index)).collect();
        let mut tsc_and_all = vec![kvm_msr_entry { index: msrs::TSC, ..Default::default() }];
        tsc_and_all.extend_from_slice(&state.msrs);
        let mut with_tsc = msrs::tsc(state.tsc).to_vec();
        with_tsc.extend_from_slice(&restored);
        let deadline = restored
            .iter()
            .find(|entry| entry.index == msrs::TSC_DEADLINE && entry.data != 0)
            .map(|entry| msrs::collection(&[*entry]))
            .transpose()?;
        Ok(Self {
            all: msrs::collection(&state.msrs)?,
            all_and_tsc: msrs::collection(&tsc_and_all)?,
            restored: msrs::collection(&restored)?,
            restored_and_tsc: msrs::collection(&with_tsc)?,
            deadline,
            open,
            state,
        })
    }

    /// The captured state.
    pub fn state(&self) -> &VcpuState {
        &self.state
    }

    /// MSRs that a guest in this state may write once the filter is in place.
    pub fn open(&self) -> &[u32] {
        &self.open
    }

    pub(super) fn all(&self) -> &Msrs {
        &self.all
    }

    pub(super) fn all_and_tsc(&self) -> &Msrs {
        &self.all_and_tsc
    }

    pub(super) fn restored(&self) -> &Msrs {
        &self.restored
    }

    pub(super) fn restored_and_tsc(&self) -> &Msrs {
        &self.restored_and_tsc
    }

    pub(super) fn deadline(&self) -> Option<&Msrs> {
        self.deadline.as_ref()
    }
}
