//! What the sources say.

use std::fmt;
use std::time::SystemTime;

use super::{Finding, GuestInventory, VerificationParts};

/// What the sources said about a machine that had been reset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// When the machine had been reset.
    pub reset_at: SystemTime,
    /// Root of the Merkle tree over the disk as the guest reads it, or why there is none.
    pub disk: Result<[u8; 32], String>,
    /// The guest's count.
    pub descriptors: Descriptors,
    /// What the guest says of its processes and its memory.
    pub inventory: GuestInventory,
    /// What KVM says the machine is doing.
    pub run_state: RunState,
    /// What was seen of disk, memory, processors and devices that is not as it was.
    pub differences: Vec<Finding>,
    /// What is odd, and no difference by itself.
    pub suspicions: Vec<Finding>,
    /// What each source cost.
    pub parts: VerificationParts,
}

/// How many descriptors the guest says it has open, in all its processes, sockets excluded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Descriptors {
    /// So many.
    Count(u64),
    /// The guest was asked and said nothing in time.
    Silent,
    /// There is no answer to go by: the guest broke the protocol.
    Unusable(String),
    /// The guest was not asked: another source had disagreed, or the machine did not run.
    NotAsked,
}

/// What a machine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// The machine's vCPUs do what they did in the golden state.
    Running,
    /// A process of the host holds it.
    Paused,
    /// This agent holds it, as it was found: that says nothing against it.
    Held,
    /// It is over.
    Stopped,
    /// The machine is in another state.
    Error,
}

impl RunState {
    /// Name of the state in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused | Self::Held => "paused",
            Self::Stopped => "stopped",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A hash as the protocol writes it: `sha256:` and 64 hex digits.
pub fn sha256_text(hash: &[u8; 32]) -> String {
    use std::fmt::Write;
    let mut text = String::from("sha256:");
    for byte in hash {
        // A string takes whatever is written to it.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
