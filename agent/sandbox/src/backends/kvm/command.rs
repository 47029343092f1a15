//! One command on a machine, and what its failure means for the machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use guest::wire::{ResultReason, ToolDispatch};

use super::admission::Admitted;
use super::connected::Connected;
use super::{KvmSandbox, freshness};
use crate::call::PartialOutput;
use crate::channel::{ChannelError, CommandFailure, Output};
use crate::error::{SandboxError, StoppedBy};
use crate::{ToolCall, ToolOutcome};

/// Beyond the deadline, until the host stops believing that the guest will enforce it. What is
/// left of 250 ms is for the reset.
const GRACE: Duration = Duration::from_millis(200);

impl KvmSandbox {
    /// Runs a command that was admitted.
    pub(super) fn run(
        &self,
        connected: &Arc<Connected>,
        call: ToolCall,
        admitted: &Admitted,
        begun: Instant,
    ) -> Result<ToolOutcome, SandboxError> {
        let fence = begun + admitted.deadline() + GRACE;
        connected.begins(&call.command_id);
        let dispatch = ToolDispatch {
            command_id: call.command_id,
            tool: call.tool,
            params: call.params,
            deadline_ms: admitted.deadline_ms,
            freshness: freshness::draw()?,
        };
        let call = connected.call();
        let result = connected.channel().dispatch(dispatch, admitted.output_bytes, fence);
        // A reset waits for every call.
        drop(call);
        match result {
            Ok(output) => finished(output, admitted, begun),
            Err(failure) => Err(self.failed(connected, failure, admitted)),
        }
    }

    fn failed(
        &self,
        connected: &Arc<Connected>,
        failure: CommandFailure,
        admitted: &Admitted,
    ) -> SandboxError {
        let CommandFailure { error, partial } = failure;
        match error {
            ChannelError::TimedOut { .. } => {
                let error = SandboxError::ToolTimeout {
                    deadline_ms: admitted.deadline_ms,
                    stopped_by: StoppedBy::Host,
                    partial,
                };
                self.recover(connected, &error.to_string());
                error
            }
            // The guest is as it was.
            ChannelError::OutboundTooLarge { .. }
            | ChannelError::DuplicateRequest { .. }
            | ChannelError::Refused { .. } => error.into(),
            error => self.broken(connected, error),
        }
    }

    /// After an error that leaves no trust in the guest.
    pub(super) fn broken(&self, connected: &Arc<Connected>, error: ChannelError) -> SandboxError {
        let error = connected.explain(error);
        self.recover(connected, &error.to_string());
        error
    }
}

/// A command that came back with checked evidence.
fn finished(
    output: Output,
    admitted: &Admitted,
    begun: Instant,
) -> Result<ToolOutcome, SandboxError> {
    let Output { result, stdout, stderr, chunks } = output;
    if result.reason == Some(ResultReason::DeadlineExceeded) {
        let evidence_hash = Some(result.evidence_hash);
        return Err(SandboxError::ToolTimeout {
            deadline_ms: admitted.deadline_ms,
            stopped_by: StoppedBy::Guest,
            partial: Box::new(PartialOutput { stdout, stderr, evidence_hash, chunks }),
        });
    }
    Ok(ToolOutcome {
        exit_code: result.exit_code,
        reason: result.reason,
        message: result.message,
        stdout,
        stderr,
        stdout_total: result.stdout_bytes,
        stderr_total: result.stderr_bytes,
        stdout_truncated: result.stdout_truncated,
        stderr_truncated: result.stderr_truncated,
        evidence_hash: result.evidence_hash,
        chunks,
        in_guest: Duration::from_micros(result.duration_us),
        round_trip: begun.elapsed(),
    })
}
