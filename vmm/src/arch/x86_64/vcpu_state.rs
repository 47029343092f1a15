//! The state of a vCPU: everything KVM keeps that the guest can change or notice.
//!
//! [`GROUPS`] is the one list of its groups. Reading, restoring, comparing and describing walk it.

mod debug;
mod events;
mod extended;
mod general;
mod group;
mod image;
mod local_apic;
mod model_specific;
mod run_state;
mod special;
mod staged;
mod table;
mod tsc_group;

pub use group::RestoreKind;
pub use image::VcpuImage;

use kvm_bindings::{
    kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use serde::{Deserialize, Serialize};

use super::vcpu::{ArchVcpu, MpState};
use super::{Named, msrs, tsc};
use crate::elapsed::ElapsedBounds;
use crate::ioctl::{self, KvmError};
use crate::mismatch::Mismatch;
use group::{MsrSource, VcpuComparison, VcpuReader, Writer};
use table::{GROUPS, listed};

/// Most MSRs of a vCPU: what the kernel takes in one call (`MAX_IO_MSRS`).
const MAX_MSRS: usize = 256;

/// CR4: global pages. Its change flushes all translations (Intel SDM volume 3, 4.10.4.1).
const CR4_PGE: u64 = 1 << 7;

/// Everything KVM keeps about a vCPU that its guest can change or notice.
#[derive(Default, Serialize, Deserialize)]
pub struct VcpuState {
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    events: kvm_vcpu_events,
    xsave: Box<kvm_xsave>,
    xcrs: kvm_xcrs,
    debug_regs: kvm_debugregs,
    lapic: Box<kvm_lapic_state>,
    /// All MSRs that KVM lists as state, without the TSC, the timer's deadline last.
    msrs: Vec<kvm_msr_entry>,
    /// The guest's TSC in ticks, at the moment of the capture.
    tsc: u64,
}

impl VcpuState {
    /// What the vCPU was doing.
    pub fn run_state(&self) -> MpState {
        MpState::from(self.mp_state.mp_state)
    }

    /// The guest's TSC in ticks.
    pub fn tsc(&self) -> u64 {
        self.tsc
    }

    /// The deadline of the local APIC's timer, in ticks of the guest's TSC; 0 when none is set.
    pub fn deadline(&self) -> u64 {
        let deadline = self.msrs.iter().find(|entry| entry.index == msrs::TSC_DEADLINE);
        deadline.map_or(0, |entry| entry.data)
    }

    /// Refuses a state that no machine can have captured, with the reason. A state from a file may
    /// have been made by anyone.
    ///
    /// # Errors
    ///
    /// The state holds more MSRs than KVM can know, or a deadline that had passed.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.msrs.len() > MAX_MSRS {
            Err("more MSRs than there can be")
        } else if self.is_due_within(0) {
            Err("a timer whose deadline had passed")
        } else {
            Ok(())
        }
    }

    /// True when the local APIC's timer has a deadline that had passed at the capture, or would
    /// within so many ticks. A reset sets the deadline anew: one that has passed interrupts the
    /// golden state, or is gone, before the comparison.
    pub fn is_due_within(&self, ticks: u64) -> bool {
        let deadline = self.deadline();
        deadline != 0 && deadline <= self.tsc.saturating_add(ticks)
    }

    /// Compares this captured state with `now`. With `tsc`, the counter has to be within bounds; its
    /// frequency is in hertz.
    pub fn compare(&self, now: &Self, tsc: Option<(ElapsedBounds, u64)>) -> Vec<Mismatch<String>> {
        let comparison = VcpuComparison { then: self, now, tsc };
        let mut found = Vec::new();
        for group in listed() {
            (group.compare)(&comparison, &mut found);
        }
        found
    }

    /// Names and values of everything, for people.
    pub fn describe(&self) -> Vec<Named> {
        let mut named = Vec::new();
        for group in listed() {
            (group.describe)(self, &mut named);
        }
        named
    }
}

impl ArchVcpu {
    /// Reads the whole state, with the MSRs in `wanted` that this vCPU has. The vCPU must be parked:
    /// then no access of its guest is half done. `host_tsc` is a reading of the host's counter that
    /// all vCPUs of the machine share.
    ///
    /// # Errors
    ///
    /// KVM refuses to tell a group.
    pub fn capture(&self, wanted: &[u32], host_tsc: u64) -> Result<VcpuState, KvmError> {
        read(VcpuReader {
            fd: &self.fd,
            left: None,
            msrs: MsrSource::Listed(wanted),
            host_tsc,
            state: VcpuState::default(),
        })
    }

    /// Reads everything that `image` holds, in as few calls as possible: each makes KVM load the
    /// vCPU. Staged registers take effect before. The vCPU must be parked, and this its thread.
    /// `alone`: the machine has no other vCPU.
    ///
    /// # Errors
    ///
    /// KVM refuses to apply staged registers or to tell a group.
    pub fn read_back(
        &mut self,
        image: &VcpuImage,
        host_tsc: u64,
        alone: bool,
    ) -> Result<VcpuState, KvmError> {
        let left = Some(self.apply_and_read()?);
        // With several vCPUs the counter is read by its offset, exact to the tick: all vCPUs have to
        // agree.
        let msrs = if alone {
            MsrSource::PreparedWithTsc(image.all_and_tsc())
        } else {
            MsrSource::Prepared(image.all())
        };
        read(VcpuReader { fd: &self.fd, left, msrs, host_tsc, state: VcpuState::default() })
    }

    /// Restores everything a guest could have changed since `image` was captured. The vCPU must be
    /// parked. `host_tsc` is a reading of the host's counter that all vCPUs of the machine share.
    ///
    /// General registers, special registers and events travel in `kvm_run`. They take effect when
    /// the vCPU is entered next, or with [`Self::apply_staged_regs`].
    ///
    /// # Errors
    ///
    /// KVM refuses a group. The groups before it in the table have been written.
    pub fn restore(
        &mut self,
        image: &VcpuImage,
        host_tsc: u64,
        kind: RestoreKind,
    ) -> Result<(), KvmError> {
        self.next_command();
        let state = image.state();
        let offset = Some(state.tsc.wrapping_sub(host_tsc));
        let (msrs, tsc_offset) = match kind {
            RestoreKind::Only => (image.restored_and_tsc(), None),
            RestoreKind::OneOfSeveral => (image.restored(), offset),
            RestoreKind::New => {
                // KVM takes the local APIC's registers in the form of the mode the APIC is in.
                self.fd.set_sregs(&state.sregs).map_err(KvmError::ioctl("KVM_SET_SREGS"))?;
                (image.all(), offset)
            }
        };
        let deadline = image.deadline();
        let mut writer = Writer { fd: &mut self.fd, state, msrs, deadline, tsc_offset };
        for group in &GROUPS {
            (group.write)(&mut writer)?;
        }
        Ok(())
    }

    /// Has KVM flush the vCPU's translations before its next entry. A restore of `image` has to follow:
    /// this sets its special registers but for one bit of CR4, and each change of that bit flushes. It
    /// also makes KVM look for its page tables again, so it serves where nothing cheaper does.
    ///
    /// # Errors
    ///
    /// KVM refuses the registers.
    pub fn flush_translations(&mut self, image: &VcpuImage) -> Result<(), KvmError> {
        let mut sregs = image.state().sregs;
        sregs.cr4 ^= CR4_PGE;
        ioctl::call("KVM_SET_SREGS", || self.fd.set_sregs(&sregs))
    }

    /// See [`tsc::can_be_moved`].
    ///
    /// # Errors
    ///
    /// KVM refuses to read or to set the offset.
    pub fn tsc_can_be_moved(&self) -> Result<bool, KvmError> {
        tsc::can_be_moved(&self.fd)
    }

    /// Frequency of the guest's TSC in kHz. KVM is asked once: only the host could change it.
    ///
    /// # Errors
    ///
    /// KVM refuses to tell.
    pub fn tsc_khz(&self) -> Result<u64, KvmError> {
        if let Some(known) = self.tsc_khz.get() {
            return Ok(*known);
        }
        let khz = self.fd.get_tsc_khz().map_err(KvmError::ioctl("KVM_GET_TSC_KHZ"))?;
        Ok(*self.tsc_khz.get_or_init(|| u64::from(khz)))
    }
}

fn read(mut reader: VcpuReader<'_>) -> Result<VcpuState, KvmError> {
    for group in &GROUPS {
        (group.read)(&mut reader)?;
    }
    Ok(reader.state)
}

#[cfg(test)]
mod tests;
