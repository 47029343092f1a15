//! What a sandbox is doing, and how its boot went.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// What a sandbox is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxState {
    /// There is no machine.
    NotBooted,
    /// A machine is starting.
    Booting,
    /// Tools can run.
    Ready,
    /// The machine is being put back to its golden state.
    Resetting,
    /// The machine is gone or not to be trusted.
    Failed {
        /// Why, in words.
        reason: String,
    },
}

impl fmt::Display for SandboxState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBooted => f.write_str("not booted"),
            Self::Booting => f.write_str("booting"),
            Self::Ready => f.write_str("ready"),
            Self::Resetting => f.write_str("resetting"),
            Self::Failed { reason } => write!(f, "failed: {reason}"),
        }
    }
}

/// How a machine came to be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BootPath {
    /// The guest's kernel was started.
    ColdBoot,
    /// The machine began in a golden state that was in memory.
    Fork,
    /// The machine began in a golden state that was read from a snapshot file.
    Snapshot,
}

/// How a boot went. Durations are in the order of the phases and add up to about `total`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootReport {
    /// Which way was taken.
    pub path: BootPath,
    /// Reading and checking the image; zero when an earlier boot did so.
    pub image: Duration,
    /// What the machine itself cost, up to the first instruction of the guest.
    pub machine: vmm::BootTimings,
    /// From starting the machine until the guest program said it is ready.
    pub to_ready: Duration,
    /// From there until the control connection stood.
    pub handshake: Duration,
    /// Warming up, waiting for the guest to be idle, and capturing its golden state.
    pub capture: Duration,
    /// Measuring what verified resets compare with; zero when an earlier boot did so, or nobody
    /// wants it.
    pub baseline: Duration,
    /// The whole call.
    pub total: Duration,
    /// The guest's own clock when it said it is ready, in microseconds since its kernel started.
    pub guest_boot_us: u64,
}

/// How a reset went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetOutcome {
    /// What the machine did.
    pub report: vmm::ResetReport,
    /// From the call until the sandbox was ready again.
    pub took: Duration,
}
