//! What the process's exit code says.

use std::process::ExitCode;

use sandbox::SandboxError;

/// Reasons to exit, beside the tool's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// What was to be checked is not right, or what was asked for was refused.
    Refused,
    /// Wrong usage or settings.
    Usage,
    /// This host cannot run microVMs.
    Unfit,
    /// The tool could not be run, or its result cannot be trusted.
    ExecutorFailed,
    /// The microVM did not become ready.
    BootFailed,
    /// The tool's deadline passed.
    DeadlinePassed,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Refused => 1,
            Self::Usage => 2,
            Self::Unfit => 64,
            Self::ExecutorFailed => 125,
            Self::BootFailed => 126,
            Self::DeadlinePassed => 137,
        }
    }

    /// After a tool call that failed.
    pub fn of_call(error: &SandboxError) -> Self {
        match error {
            SandboxError::ToolTimeout { .. } => Self::DeadlinePassed,
            _ => Self::ExecutorFailed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}
