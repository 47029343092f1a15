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
    /// The machine is being reset to its golden state.
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
    /// What the backend did to make the machine, up to the first instruction of the guest.
    pub machine: Phases,
    /// From starting the machine until the guest program said it is ready.
    pub to_ready: Duration,
    /// From there until the control connection stood.
    pub handshake: Duration,
    /// Warming up, waiting for the guest to be idle, and capturing its golden state.
    pub capture: Duration,
    /// Measuring what verified resets compare with; zero when an earlier boot did so, or the caller
    /// wants it.
    pub baseline: Duration,
    /// The whole call.
    pub total: Duration,
    /// The guest's own clock when it said it is ready, in microseconds since its kernel started.
    pub guest_boot_us: u64,
}

/// How a reset went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResetOutcome {
    /// What the backend did, in order.
    pub phases: Phases,
    /// Pages of RAM that were restored, 4096 bytes each.
    pub dirty_pages: usize,
    /// Blocks of the disk that were restored, 4096 bytes each.
    pub disk_blocks: usize,
    /// From the call until the sandbox was ready again.
    pub took: Duration,
}

/// Steps of a boot or a reset in the order in which they were taken, each with its time. Their names
/// are the backend's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Phases(Vec<(&'static str, Duration)>);

impl Phases {
    /// These steps, in order.
    pub fn new(phases: impl Into<Vec<(&'static str, Duration)>>) -> Self {
        Self(phases.into())
    }

    /// Every step with its time.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Duration)> + '_ {
        self.0.iter().copied()
    }

    /// Time of the steps of that name; zero when there is none.
    pub fn took(&self, name: &str) -> Duration {
        self.iter().filter(|(known, _)| *known == name).map(|(_, took)| took).sum()
    }

    /// Time of all steps together.
    pub fn total(&self) -> Duration {
        self.iter().map(|(_, took)| took).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_keep_their_order_and_add_up() {
        let ms = Duration::from_millis;
        let phases = Phases::new([("memory", ms(1)), ("vcpus", ms(2)), ("memory", ms(4))]);
        let names: Vec<_> = phases.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["memory", "vcpus", "memory"]);
        assert_eq!(phases.took("memory"), ms(5));
        assert_eq!(phases.took("devices"), Duration::ZERO);
        assert_eq!(phases.total(), ms(7));
    }
}
