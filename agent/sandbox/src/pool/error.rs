//! Why a pool did not run a call.

use std::time::Duration;

use thiserror::Error;

use super::limits::LimitError;

/// Why a call that has its machine does not begin after all.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Refused {
    /// The protocol's code.
    pub code: &'static str,
    /// In words.
    pub message: String,
}

/// Why a pool did not run a call, or could not be set up. The call was not given to any machine,
/// so it can be tried again elsewhere without being run twice.
#[derive(Debug, Error)]
pub enum PoolError {
    /// The pool cannot be like that.
    #[error(transparent)]
    Limits(#[from] LimitError),
    /// The host gives no thread.
    #[error("cannot start a thread of the pool: {0}")]
    Threads(#[source] std::io::Error),
    /// All machines are in use, and as many calls wait as may.
    #[error(
        "no machine is free for the call and {waiting} calls wait already: send fewer at once or later"
    )]
    QueueFull {
        /// How many wait.
        waiting: usize,
    },
    /// The call's deadline passed before there was a machine for it.
    #[error("no machine became free within the deadline of {deadline_ms} ms (waited {waited:?})")]
    DeadlinePassed {
        /// The deadline that was set, in milliseconds.
        deadline_ms: i64,
        /// How long the call waited.
        waited: Duration,
    },
    /// There is no machine, and there will be none.
    #[error("the pool has no machine and could not make one: {reason}")]
    NoMachine {
        /// What happened at the last attempt.
        reason: String,
    },
    /// A machine could not be shown to be clean, and no other is used since.
    #[error("no machine is used since one could not be shown to be clean: {reason}")]
    Halted {
        /// What was wrong with it.
        reason: String,
    },
    /// Who sent the call no longer wants it to begin.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The pool was shut down.
    #[error("the pool was shut down")]
    ShutDown,
}

impl PoolError {
    /// The protocol's code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::QueueFull { .. } => "ENDPOINT_SANDBOX_NOT_READY",
            Self::Halted { .. } => "ENDPOINT_INTEGRITY_MONITOR_TRIPPED",
            Self::DeadlinePassed { .. } => "SANDBOX_TOOL_TIMEOUT",
            Self::Refused(refused) => refused.code,
            Self::Limits(_) | Self::Threads(_) | Self::NoMachine { .. } | Self::ShutDown => {
                "SANDBOX_NOT_AVAILABLE"
            }
        }
    }
}
