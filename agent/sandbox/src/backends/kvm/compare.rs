//! Comparing a machine with its golden state, bit for bit.

use vmm::{Differences, Machine, MachineError};

use super::KvmSandbox;
use crate::error::SandboxError;
use crate::state::ResetOutcome;

impl KvmSandbox {
    /// Resets the sandbox like [`Sandbox::reset`](crate::Sandbox::reset) and compares it with its golden state, bit for
    /// bit, before the guest runs again. Takes as long as reading all of its memory and disk.
    ///
    /// # Errors
    ///
    /// As for a reset, and where the machine cannot be read.
    pub fn reset_and_compare(&self) -> Result<(ResetOutcome, Differences), SandboxError> {
        let connected = self.ready()?;
        let mut found = Differences::default();
        let mut inspect = |machine: &Machine| {
            found = machine.differences()?;
            Ok(())
        };
        let (outcome, _) = self.reset_connected(&connected, Some(&mut inspect))?;
        Ok((outcome, found))
    }

    /// Holds the machine as it is and compares it with its golden state.
    ///
    /// # Errors
    ///
    /// The sandbox is not ready or has no golden state, or the machine cannot be read.
    pub fn compare(&self) -> Result<Differences, SandboxError> {
        let connected = self.ready()?;
        let failed = |error: MachineError| SandboxError::ResetFailed { reason: error.to_string() };
        let _alone = connected.exclude_calls();
        connected.machine.pause().map_err(failed)?;
        let differences = connected.machine.differences().map_err(failed);
        connected.machine.resume().map_err(failed)?;
        differences
    }
}
