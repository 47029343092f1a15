//! Whether a machine that was reset is in its golden state: what independent sources say about it,
//! beside what they said when the golden state was made.
//!
//! The sources do not know of each other: the disk's content, the guest's own count of what it has
//! open, and KVM. All have to agree; none outweighs another.

mod baseline;
mod evidence;
mod finding;
mod inventory;

use std::time::{Duration, SystemTime};

use super::ResetOutcome;

pub use baseline::{Baseline, BaselineError, GoldenFacts};
pub use evidence::{Descriptors, Evidence, RunState, sha256_text};
pub use finding::{Finding, Location, MAX_FINDINGS, Source};
pub use inventory::GuestInventory;

/// Bytes of a block of the disk, which is a leaf of its hash tree, and of a page of RAM.
pub const BLOCK_BYTES: usize = 4096;

/// Findings a message names; all of them are in [`Verification::findings`].
const TOLD: usize = 8;

/// What the sources said after a reset, and what they should have said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// When the machine had been reset.
    pub reset_at: SystemTime,
    /// SHA-256 of the golden state, `sha256:` and 64 hex digits.
    pub golden_hash: String,
    /// Root of the Merkle tree (RFC 6962 2.1, SHA-256) over the 4096-byte blocks of the disk as the
    /// guest reads it, in the same form; `None` when it could not be computed.
    pub disk_hash: Option<String>,
    /// Root of that tree in the golden state.
    pub golden_disk_hash: String,
    /// Open descriptors of the whole guest, sockets excluded; `None` without an answer, or when what
    /// else the guest says leaves no trust in the number.
    pub descriptors: Option<i64>,
    /// Open descriptors in the golden state.
    pub golden_descriptors: i64,
    /// What the machine was doing; in the golden state it is [`RunState::Running`].
    pub run_state: RunState,
    /// The guest gave no answer in time, also when it was asked again.
    pub silent: bool,
    /// What is not as it was: one is enough for a divergence. At most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub more_findings: usize,
    /// What is odd, and no divergence by itself. At most [`MAX_FINDINGS`].
    pub suspicions: Vec<Finding>,
    /// What each source cost.
    pub parts: VerificationParts,
}

/// What each source of a verification cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerificationParts {
    /// Comparing what the machine had written with the record of it, before the reset.
    pub before: Duration,
    /// Reading the disk again.
    pub disk: Duration,
    /// Reading back the state that the monitor holds: processors, devices and run state.
    pub monitor: Duration,
    /// Reading memory again.
    pub memory: Duration,
    /// Waiting for the guest's answer.
    pub guest: Duration,
}

/// What follows from a [`Verification`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every source agrees with the golden state.
    Passed,
    /// No source disagrees, but one said nothing.
    Silent,
    /// At least one source disagrees, whatever the others say.
    Diverged,
}

/// A machine that was reset, and what the sources say about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedReset {
    /// How the reset went; `None` when what was seen before it left nothing to reset: the
    /// machine was ended as it was found.
    pub outcome: Option<ResetOutcome>,
    /// What the sources said.
    pub verification: Verification,
}

impl Verification {
    /// A verification in which every source agrees with a golden state of these values.
    pub fn agreeing(
        reset_at: SystemTime,
        golden_hash: impl Into<String>,
        disk_hash: impl Into<String>,
        descriptors: i64,
    ) -> Self {
        let disk_hash = disk_hash.into();
        Self {
            reset_at,
            golden_hash: golden_hash.into(),
            disk_hash: Some(disk_hash.clone()),
            golden_disk_hash: disk_hash,
            descriptors: Some(descriptors),
            golden_descriptors: descriptors,
            run_state: RunState::Running,
            silent: false,
            findings: Vec::new(),
            more_findings: 0,
            suspicions: Vec::new(),
            parts: VerificationParts::default(),
        }
    }

    /// The verdict: one disagreement is enough, and silence is no agreement.
    pub fn verdict(&self) -> Verdict {
        let count_differs = !self.silent && self.descriptors != Some(self.golden_descriptors);
        if !self.findings.is_empty()
            || !self.disk_matches()
            || self.run_state != RunState::Running
            || count_differs
        {
            Verdict::Diverged
        } else if self.silent {
            Verdict::Silent
        } else {
            Verdict::Passed
        }
    }

    /// True when every source agrees.
    pub fn passed(&self) -> bool {
        self.verdict() == Verdict::Passed
    }

    /// True when the disk is as it was.
    pub fn disk_matches(&self) -> bool {
        self.disk_hash.as_ref() == Some(&self.golden_disk_hash)
    }

    /// Why the machine was ended, in words; `None` when it passed.
    pub fn failure(&self) -> Option<String> {
        let what = match self.verdict() {
            Verdict::Passed => return None,
            Verdict::Silent => "could not be verified after its reset",
            Verdict::Diverged => "is not in its golden state after its reset",
        };
        let mut reasons: Vec<_> =
            self.findings.iter().take(TOLD).map(|finding| finding.line.as_str()).collect();
        if self.silent {
            reasons.push("the guest did not answer, also when it was asked again");
        }
        let more = self.findings.len().saturating_sub(TOLD).saturating_add(self.more_findings);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        Some(format!("the machine {what}: {}{more}", reasons.join("; ")))
    }
}

impl VerificationParts {
    /// All parts together.
    pub fn total(&self) -> Duration {
        self.before + self.disk + self.monitor + self.memory + self.guest
    }
}

#[cfg(test)]
mod tests;
