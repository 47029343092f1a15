//! What a sandbox can fail with, in the protocol's codes.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use super::channel::ChannelError;
use crate::call::PartialOutput;

/// Why a call to a sandbox failed.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// This host cannot do it, or the sandbox is in the wrong state for it.
    #[error("{reason}")]
    NotAvailable {
        /// What is missing and what to do.
        reason: String,
    },
    /// A snapshot is not as it was written.
    #[error("{reason}")]
    SnapshotChanged {
        /// What is wrong with it.
        reason: String,
    },
    /// What machines are compared with was measured, and is worth nothing.
    #[error("the machine could not be shown to be as it was captured: {reason}")]
    NotGolden {
        /// What was found.
        reason: String,
    },
    /// Everything needed was there, and the machine still did not become ready.
    #[error("the machine did not become ready: {reason}{}", Console(console))]
    BootFailed {
        /// What happened.
        reason: String,
        /// The last lines of the guest's console.
        console: Vec<String>,
    },
    /// The deadline of a command passed.
    #[error("the tool did not finish within its deadline of {deadline_ms} ms; {stopped_by}")]
    ToolTimeout {
        /// The deadline that was set, in milliseconds.
        deadline_ms: i64,
        /// Who enforced it.
        stopped_by: StoppedBy,
        /// What the tool wrote until then.
        partial: Box<PartialOutput>,
    },
    /// The machine stopped while it was in use.
    #[error("the machine stopped: {reason}; boot the sandbox again{}", Console(console))]
    MachineStopped {
        /// What happened.
        reason: String,
        /// The last lines of the guest's console.
        console: Vec<String>,
    },
    /// The control channel failed, or a command on it did.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The machine could not be reset. It has been ended.
    #[error("the machine could not be reset to its golden state: {reason}; boot the sandbox again")]
    ResetFailed {
        /// What happened.
        reason: String,
    },
    /// The machine was taken away while it was in use. That is no failure of the machine.
    #[error("the machine was taken away: {reason}")]
    TakenAway {
        /// By whom.
        reason: &'static str,
    },
    /// The guest did not answer a query.
    #[error("the guest did not answer {query} within {limit:?}")]
    QuerySilent {
        /// The kind of query.
        query: String,
        /// How long the sandbox waited.
        limit: Duration,
    },
}

/// Who enforced a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoppedBy {
    /// None was needed: it was over before the tool could start.
    NotStarted,
    /// The guest killed the tool.
    Guest,
    /// The guest did not, so the host ended the machine.
    Host,
}

impl SandboxError {
    /// The protocol's code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAvailable { .. } | Self::SnapshotChanged { .. } | Self::QuerySilent { .. } => {
                "SANDBOX_NOT_AVAILABLE"
            }
            Self::BootFailed { .. } | Self::NotGolden { .. } => "SANDBOX_BOOT_FAILED",
            Self::ToolTimeout { .. } => "SANDBOX_TOOL_TIMEOUT",
            Self::MachineStopped { .. } | Self::TakenAway { .. } => "SANDBOX_VSOCK_CLOSED",
            Self::ResetFailed { .. } => "SANDBOX_RESET_FAILED",
            Self::Channel(error) => error.code(),
        }
    }
}

impl fmt::Display for StoppedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotStarted => "it was not started; give it more time",
            Self::Guest => "the guest killed it; give it more time or less to do",
            Self::Host => "the guest did not kill it, so the host took the machine away from it",
        })
    }
}

/// Console lines as the end of a message.
struct Console<'a>(&'a [String]);

impl fmt::Display for Console<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        f.write_str("\nlast lines of the guest's console:")?;
        self.0.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

#[cfg(test)]
mod tests;
