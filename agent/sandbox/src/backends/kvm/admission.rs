//! What the host refuses without asking the guest.

use std::time::Duration;

use guest::manifest::ImageManifest;
use guest::registry::{
    CallError, MAX_DEADLINE_MS, MAX_OUTPUT_BYTES, Registry, RegistryError, ToolSpec,
};
use guest::wire::ResultReason;

use crate::call::PartialOutput;
use crate::error::{SandboxError, StoppedBy};
use crate::{ToolCall, ToolOutcome};

const EXIT_NO_SUCH_TOOL: i32 = 127;
const EXIT_NOT_STARTED: i32 = 254;

/// Knows the tools of an image. The guest checks again, and need not trust the host.
pub struct Gate {
    /// `None` when the image has no manifest; then only the guest knows.
    registry: Option<Registry>,
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Goes to the guest.
    Admitted(Admitted),
    /// Ends here.
    Refused(Box<ToolOutcome>),
}

/// How a call goes to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// The call's deadline, at most what the tool may take, in milliseconds.
    pub deadline_ms: i64,
    /// Output kept per stream.
    pub output_bytes: usize,
}

impl Gate {
    /// The tools of an image, those in `enable` enabled on top.
    pub fn new(manifest: Option<&ImageManifest>, enable: &[String]) -> Result<Self, RegistryError> {
        let Some(manifest) = manifest else { return Ok(Self { registry: None }) };
        let mut registry = Registry::new(manifest.tools.clone())?;
        registry.enable(enable.iter().map(String::as_str))?;
        Ok(Self { registry: Some(registry) })
    }

    /// Looks at a call.
    pub fn admit(&self, call: &ToolCall) -> Result<Admission, SandboxError> {
        if call.deadline_ms <= 0 {
            return Err(SandboxError::ToolTimeout {
                deadline_ms: call.deadline_ms,
                stopped_by: StoppedBy::NotStarted,
                partial: Box::new(PartialOutput::default()),
            });
        }
        let checked = self.registry.as_ref().map(|known| known.check(&call.tool, &call.params));
        match checked.transpose() {
            Ok(tool) => Ok(Admission::Admitted(Admitted::new(call.deadline_ms, tool))),
            Err(error) => Ok(Admission::Refused(Box::new(refusal(call, &error)))),
        }
    }
}

impl Admitted {
    fn new(deadline_ms: i64, tool: Option<&ToolSpec>) -> Self {
        let longest = tool.map_or(MAX_DEADLINE_MS, |tool| tool.limits.deadline_ms);
        let output = tool.map_or(MAX_OUTPUT_BYTES, |tool| tool.limits.output_bytes);
        Self {
            // Both limits are far below where these types end.
            deadline_ms: deadline_ms.min(i64::try_from(longest).unwrap_or(i64::MAX)),
            output_bytes: usize::try_from(output).unwrap_or(usize::MAX),
        }
    }

    /// The deadline as a duration.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.deadline_ms).unwrap_or_default())
    }
}

/// An outcome with the evidence of a tool that wrote nothing.
fn refusal(call: &ToolCall, error: &CallError) -> ToolOutcome {
    let (exit_code, reason) = match error {
        CallError::Unknown(_) | CallError::Disabled(_) => {
            (EXIT_NO_SUCH_TOOL, ResultReason::UnknownTool)
        }
        CallError::InvalidParams { .. } => (EXIT_NOT_STARTED, ResultReason::InvalidParams),
    };
    ToolOutcome {
        reason: Some(reason),
        message: Some(error.to_string()),
        ..ToolOutcome::of_stdout(&call.command_id, exit_code, [])
    }
}

#[cfg(test)]
mod tests;
