//! What every kind of sandbox does.

use std::any::Any;

use guest::wire::QueryKind;

use crate::call::{QueryAnswer, ToolCall, ToolOutcome};
use crate::error::SandboxError;
use crate::state::{BootReport, ResetOutcome, SandboxState};
use crate::verify::{Verification, VerifiedReset};

/// Runs tools in isolation.
///
/// All calls block, and may come from any number of threads at once. Putting the sandbox back to
/// its golden state belongs between two tool calls. A tool that outlives its deadline, and a guest
/// that breaks the protocol, are reset away without being asked.
pub trait Sandbox: Any + Send + Sync {
    /// Makes the sandbox ready: its control channel works when this returns. Does nothing when it
    /// is ready; waits when another caller is booting it. A failed boot leaves nothing behind.
    ///
    /// # Errors
    ///
    /// The image cannot be used, the host has no machine for it, or the guest does not answer in time.
    fn boot(&self) -> Result<BootReport, SandboxError>;

    /// Runs one tool. A tool that ends by itself is an outcome, whatever its exit code.
    ///
    /// # Errors
    ///
    /// The sandbox is not ready, the tool's deadline passed, or the guest broke the protocol.
    fn execute_tool(&self, call: ToolCall) -> Result<ToolOutcome, SandboxError>;

    /// Puts the sandbox back to its golden state: memory, processors, devices, disk and the control
    /// connection. Tool calls under way fail. After an error the machine is gone and the sandbox
    /// has to be booted again.
    ///
    /// # Errors
    ///
    /// The sandbox is not ready or cannot be reset, or the machine could not be restored.
    fn reset(&self) -> Result<ResetOutcome, SandboxError>;

    /// Resets, and lets independent sources say whether the machine is in its golden state. The
    /// guest has answered a question since: reset it once more before the next call. A machine
    /// that does not pass is gone, and the sandbox has to be booted again; what the sources said is
    /// not an error.
    ///
    /// # Errors
    ///
    /// As for [`Self::reset`], and where the sandbox was not made to verify its resets.
    fn reset_and_verify(&self) -> Result<VerifiedReset, SandboxError>;

    /// Resets, verifies, and resets once more, so that the next call begins in the golden state.
    ///
    /// # Errors
    ///
    /// As for [`Self::reset_and_verify`].
    fn reset_verified(&self) -> Result<VerifiedReset, SandboxError> {
        let verified = self.reset_and_verify()?;
        if verified.verification.passed() {
            self.reset()?;
        }
        Ok(verified)
    }

    /// Looks at a little of what an idle sandbox has not touched, golden memory
    /// included, and returns soon: below a millisecond on a host that is not slow. Time after time
    /// this goes over all of it. What is found ends the machine as if it had been found after a
    /// reset; `None` when nothing is wrong, and when there is nothing to look at.
    fn scrub(&self) -> Option<Verification> {
        None
    }

    /// Asks the guest about itself. Works while tools run.
    ///
    /// # Errors
    ///
    /// The sandbox is not ready, or the guest does not answer in time or not as the protocol has it.
    fn query(&self, kind: QueryKind) -> Result<QueryAnswer, SandboxError>;

    /// Ends the machine and gives back what it used. Calls in flight fail. Does nothing when
    /// there is no machine.
    fn shutdown(&self);

    /// What the sandbox is doing: a machine that stopped or does not answer is not ready.
    fn state(&self) -> SandboxState;
}
