//! Changes to a machine that no guest made, for tests and measurements.

use super::{Machine, MachineError, Phase};
use crate::integrity::Tamper;

impl Machine {
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
