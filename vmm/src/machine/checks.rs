//! A machine that checks itself, beside what it does for a living.

use super::{Machine, MachineError, Phase};
use crate::integrity::{Finding, IntegrityPlan, IntegrityReport};
use crate::snapshot::{PageSet, Register, ResetReport, Strategy};

impl Machine {
    /// Looks at what is about to be thrown away, on a machine that is paused or has stopped by
    /// itself: every block of the disk that the guest has written must read as the disk device wrote
    /// it, and no other writer may have changed any other. Tells also which blocks the guest was
    /// refused since the last call, because they did not read as they should.
    ///
    /// Changes nothing, so that what is found can be saved before it is gone.
    ///
    /// # Errors
    ///
    /// [`MachineError::WrongState`] when the machine neither is paused nor has stopped by itself,
    /// [`MachineError::NotCaptured`] without a golden state, [`MachineError::Unreadable`] when the disk cannot
    /// be read.
    pub fn check_before_reset(&self) -> Result<Vec<Finding>, MachineError> {
        match &*self.lock() {
            Phase::Paused(live) => live.check_before_reset(),
            Phase::Running(live) if self.stop_state.reason().is_some() => live.check_before_reset(),
            other => Err(other.wrong("check")),
        }
    }

    /// Compares a paused machine that was just reset with its golden state: all state, all that the
    /// reset restored, and of the rest as much as `plan` says, another part with every call.
    ///
    /// # Errors
    ///
    /// [`MachineError::WrongState`] when the machine is not paused, [`MachineError::NotCaptured`] without a
    /// golden state, [`MachineError::Unreadable`] when memory or disk cannot be read; otherwise what KVM or
    /// a vCPU refused. What differs is no error but a finding.
    pub fn check_after_reset(&self, plan: &IntegrityPlan) -> Result<IntegrityReport, MachineError> {
        match &*self.lock() {
            Phase::Paused(live) => live.check_after_reset(plan),
            other => Err(other.wrong("check")),
        }
    }

    /// [`Machine::reset`] and [`Machine::check_after_reset`] in one, on a paused machine: cheaper
    /// than one after the other. An error of the reset leaves the machine poisoned; what came of
    /// the check is part of the result, and leaves it reset, and paused.
    ///
    /// # Errors
    ///
    /// Those of [`Machine::reset`]; those of [`Machine::check_after_reset`] stand in the result.
    pub fn reset_and_check(
        &self,
        strategy: Strategy,
        plan: &IntegrityPlan,
    ) -> Result<(ResetReport, Result<IntegrityReport, MachineError>), MachineError> {
        let mut reports = None;
        self.change("reset", |phase| match phase {
            Phase::Paused(live) if live.golden().is_none() => {
                (Phase::Paused(live), Err(MachineError::NotCaptured))
            }
            Phase::Paused(live) => match live.reset_and_check(strategy, plan) {
                (Ok(reset), check) => {
                    reports = Some((reset, check));
                    (Phase::Paused(live), Ok(()))
                }
                (Err(e), _) => (Phase::Poisoned(live, e.to_string()), Err(e)),
            },
            other => {
                let error = other.wrong("reset");
                (other, Err(error))
            }
        })?;
        reports.ok_or(MachineError::NotCaptured)
    }

    /// Returns the pages that the last reset restored: what the guest and its devices had written, and
    /// hot pages.
    ///
    /// # Errors
    ///
    /// [`MachineError::WrongState`] when the machine is not booted, shut down or poisoned,
    /// [`MachineError::NotCaptured`] without a golden state.
    pub fn last_reset_pages(&self) -> Result<PageSet, MachineError> {
        match &*self.lock() {
            Phase::Running(live) | Phase::Paused(live) => Ok(PageSet::of(&live.restored()?)),
            other => Err(other.wrong("read the pages of")),
        }
    }

    /// Reads the next part of what was not touched, on a machine that has nothing to do. Together
    /// with the samples of [`Self::check_after_reset`] this goes round and round over all of disk
    /// and memory. The machine may be running; its own memory is read only where it is still as it
    /// was restored, on a paused machine, and golden memory always. The report has no `disk_root`.
    ///
    /// # Errors
    ///
    /// [`MachineError::WrongState`] when the machine is not booted, shut down or poisoned,
    /// [`MachineError::NotCaptured`] without a golden state, [`MachineError::Unreadable`] when memory or disk
    /// cannot be read.
    pub fn scrub(&self, plan: &IntegrityPlan) -> Result<IntegrityReport, MachineError> {
        match &*self.lock() {
            Phase::Running(live) | Phase::Paused(live) => live.scrub(plan),
            other => Err(other.wrong("scrub")),
        }
    }

    /// Copies guest memory from the guest-physical `address` on, on a paused machine. All of it
    /// must be RAM.
    ///
    /// # Errors
    ///
    /// [`MachineError::WrongState`] when the machine is not paused, [`MachineError::Unreadable`] when not all
    /// of it is RAM.
    pub fn read_memory(&self, address: u64, bytes: &mut [u8]) -> Result<(), MachineError> {
        match &*self.lock() {
            Phase::Paused(live) => live.read_memory(address, bytes),
            other => Err(other.wrong("read memory of")),
        }
    }

    /// Copies what the disk holds from byte `offset` on, checked or not, on a machine that is paused
    /// or has stopped by itself.
    ///
    /// # Errors
    ///
    /// [`MachineError::WrongState`] when the machine neither is paused nor has stopped by itself,
    /// [`MachineError::Unreadable`] when it has no disk, or the disk ends before the last byte.
    pub fn read_disk(&self, offset: u64, bytes: &mut [u8]) -> Result<(), MachineError> {
        match &*self.lock() {
            Phase::Paused(live) => live.read_disk(offset, bytes),
            Phase::Running(live) if self.stop_state.reason().is_some() => {
                live.read_disk(offset, bytes)
            }
            other => Err(other.wrong("read the disk of")),
        }
    }

    /// Every register of every vCPU of a paused machine, read back from KVM, beside what was
    /// captured.
    ///
    /// # Errors
    ///
    /// [`MachineError::WrongState`] when the machine is not paused, [`MachineError::NotCaptured`] without a
    /// golden state, otherwise what KVM refused.
    pub fn registers(&self) -> Result<Vec<Register>, MachineError> {
        match &*self.lock() {
            Phase::Paused(live) => live.registers(),
            other => Err(other.wrong("read the registers of")),
        }
    }

    /// Numbers of the blocks of 4096 bytes of its disk that the guest has written since the last
    /// reset, on a paused machine.
    ///
    /// # Errors
    ///
    /// [`MachineError::WrongState`] when the machine is not paused.
    pub fn dirty_blocks(&self) -> Result<Vec<u64>, MachineError> {
        match &*self.lock() {
            Phase::Paused(live) => Ok(live.dirty_blocks()),
            other => Err(other.wrong("read the disk of")),
        }
    }
}
