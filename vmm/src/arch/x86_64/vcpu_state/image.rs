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
    /// The MSRs that a guest can write.
    writable: Msrs,
    /// The TSC, and the MSRs that a guest can write.
    writable_and_tsc: Msrs,
    /// The timer's deadline, if one was set.
    deadline: Option<Msrs>,
}

impl VcpuImage {
    /// Prepares `state` for being restored often.
    ///
    /// # Errors
    ///
    /// The state holds more MSRs than one call of KVM takes.
    pub fn new(state: VcpuState) -> Result<Self, KvmError> {
        let writable: Vec<kvm_msr_entry> = state
            .msrs
            .iter()
            .copied()
            .filter(|entry| msrs::WRITABLE.contains(&entry.index))
            .collect();
        let mut tsc_and_all = vec![kvm_msr_entry { index: msrs::TSC, ..Default::default() }];
        tsc_and_all.extend_from_slice(&state.msrs);
        let mut with_tsc = msrs::tsc(state.tsc).to_vec();
        with_tsc.extend_from_slice(&writable);
        let deadline = writable
            .iter()
            .find(|entry| entry.index == msrs::TSC_DEADLINE && entry.data != 0)
            .map(|entry| msrs::collection(&[*entry]))
            .transpose()?;
        Ok(Self {
            all: msrs::collection(&state.msrs)?,
            all_and_tsc: msrs::collection(&tsc_and_all)?,
            writable: msrs::collection(&writable)?,
            writable_and_tsc: msrs::collection(&with_tsc)?,
            deadline,
            state,
        })
    }

    /// The captured state.
    pub fn state(&self) -> &VcpuState {
        &self.state
    }

    pub(super) fn all(&self) -> &Msrs {
        &self.all
    }

    pub(super) fn all_and_tsc(&self) -> &Msrs {
        &self.all_and_tsc
    }

    pub(super) fn writable(&self) -> &Msrs {
        &self.writable
    }

    pub(super) fn writable_and_tsc(&self) -> &Msrs {
        &self.writable_and_tsc
    }

    pub(super) fn deadline(&self) -> Option<&Msrs> {
        self.deadline.as_ref()
    }
}
