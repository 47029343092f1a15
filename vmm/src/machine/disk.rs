//! The disk of a machine, as its host reads and writes it.

use super::{Machine, MachineError, Phase};

impl Machine {
    /// SHA-256 of what the guest would read from its disk now: all of it, through the mapping that
    /// the disk device reads. `None` without a disk. Requests of the guest wait meanwhile.
    ///
    /// # Errors
    ///
    /// [`MachineError::WrongState`] when the machine is not booted, shut down or poisoned.
    pub fn disk_sha256(&self) -> Result<Option<[u8; 32]>, MachineError> {
        match &*self.lock() {
            Phase::Running(live) | Phase::Paused(live) => Ok(live.disk_sha256()),
            other => Err(other.wrong("read the disk of")),
        }
    }

    /// Writes `bytes` to the disk at byte `offset`, as if the guest had asked the block device to. A reset
    /// takes it back. The machine must be paused, and a driver of the guest may hold older content.
    ///
    /// # Errors
    ///
    /// [`MachineError::WrongState`] when the machine is not paused, [`MachineError::Unreadable`]
    /// when it has no disk or the disk ends before the last byte.
    pub fn write_disk(&self, offset: u64, bytes: &[u8]) -> Result<(), MachineError> {
        match &*self.lock() {
            Phase::Paused(live) => live.write_disk(offset, bytes),
            other => Err(other.wrong("write to the disk of")),
        }
    }
}
