//! Captures a machine at a moment when its guest waits.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Machine, MachineError, MachineState};
use crate::arch::MpState;
use crate::snapshot::{Golden, ResetError};

/// Between two tries. A guest that idles has a timer due in a few of its ticks.
const RETRY_EVERY: Duration = Duration::from_millis(5);

impl Machine {
    /// Captures a running machine as [`Machine::capture`] does, at the first moment within `limit`
    /// when all vCPUs are halted and no timer is about to fire. The machine runs on.
    ///
    /// # Errors
    ///
    /// [`MachineError::NotIdle`] when there is no such moment; the machine runs on. Otherwise as
    /// [`Machine::pause`], [`Machine::capture`] and [`Machine::resume`].
    pub fn capture_when_idle(&self, limit: Duration) -> Result<Arc<Golden>, MachineError> {
        let until = Instant::now() + limit;
        loop {
            self.pause()?;
            if is_idle(&self.state()?) {
                match self.capture() {
                    // The guest runs on to its timer.
                    Err(MachineError::Reset(ResetError::DeadlineNear)) => {}
                    captured => {
                        let golden = captured?;
                        self.resume()?;
                        return Ok(golden);
                    }
                }
            }
            self.resume()?;
            if Instant::now() >= until {
                return Err(MachineError::NotIdle { limit });
            }
            thread::sleep(RETRY_EVERY);
        }
    }
}

/// Whether every vCPU of a paused machine waits: for an interrupt, or to be started.
fn is_idle(state: &MachineState) -> bool {
    let waits = |mp_state| matches!(mp_state, MpState::Halted | MpState::Uninitialized);
    matches!(state, MachineState::Paused(vcpus) if vcpus.iter().all(|vcpu| waits(vcpu.mp_state)))
}
