//! Changes to a machine that no guest made, for tests and measurements.

use super::{Machine, MachineError, Phase};
use crate::integrity::Tamper;

impl Machine {
    /// Writes `bytes` to the disk at byte `offset`, as if the guest had asked the block device to.
    /// The machine must be paused. Serves tests with guests that have no driver.
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

    /// Changes one bit of a paused machine past every log and record. Serves tests of
    /// [`Machine::check_before_reset`] and [`Machine::check_after_reset`].
    ///
    /// # Errors
    ///
    /// [`MachineError::WrongState`] when the machine is not paused, [`MachineError::Tamper`] when
    /// the machine has no such part.
    pub fn tamper(&self, tamper: Tamper) -> Result<(), MachineError> {
        match &*self.lock() {
            Phase::Paused(live) => live.tamper(tamper),
            other => Err(other.wrong("tamper with")),
        }
    }
}
