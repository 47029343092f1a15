//! What became of a command.

use std::time::Duration;

use super::pool::{PoolError, Refused};
use super::{PartialOutput, SandboxError, ToolOutcome, Verification};

/// What became of a command.
#[derive(Debug)]
pub struct Executed {
    /// How the tool ended.
    pub result: Result<ToolOutcome, Failure>,
    /// What is known of its machine afterwards. `None` when there is none: no machine has seen the
    /// command, or none was verified.
    pub reset: Option<Result<Verification, SandboxError>>,
    /// Time the tool had its machine.
    pub execute: Duration,
    /// Time the machine took to be reset and verified.
    pub reset_took: Duration,
}

impl Executed {
    /// Of a command that no machine has seen.
    pub fn refused(failure: impl Into<Failure>) -> Self {
        let (execute, reset_took) = (Duration::ZERO, Duration::ZERO);
        Self { result: Err(failure.into()), reset: None, execute, reset_took }
    }
}

/// Why there is no outcome of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The protocol's code.
    pub code: &'static str,
    /// In words.
    pub message: String,
    /// What the tool wrote until then.
    pub partial: PartialOutput,
}

impl From<SandboxError> for Failure {
    fn from(error: SandboxError) -> Self {
        let (code, message) = (error.code(), error.to_string());
        let partial = match error {
            SandboxError::ToolTimeout { partial, .. } => *partial,
            _ => PartialOutput::default(),
        };
        Self { code, message, partial }
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        Self { code: error.code(), message: error.to_string(), partial: PartialOutput::default() }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        PoolError::from(refused).into()
    }
}
