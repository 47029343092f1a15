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
pub use finding::{Finding, MAX_FINDINGS, Place, Source};
pub use inventory::GuestInventory;

/// Stands for a number of descriptors that the guest did not tell.
pub const UNKNOWN_COUNT: i64 = -1;

/// Bytes of a block of the disk, which is a leaf of its hash tree, and of a page of RAM.
pub const BLOCK_BYTES: usize = 4096;

/// In place of a hash that could not be computed: no baseline has it.
pub const NO_HASH: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// Findings a message names; all of them are in [`Verification::findings`].
const TOLD: usize = 8;

/// What the sources said after a reset, and what they should have said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// When the machine had been put back.
    pub reset_at: SystemTime,
    /// SHA-256 of the golden state, `sha256:` and 64 hex digits.
    pub golden_hash: String,
    /// Root of the Merkle tree (RFC 6962 2.1, SHA-256) over the 4096-byte blocks of the disk as the
    /// guest reads it, in the same form; [`NO_HASH`] when there is none.
    pub fs_hash: String,
    /// Root of that tree in the golden state.
    pub fs_hash_baseline: String,
    /// Open descriptors of the whole guest, sockets excluded; [`UNKNOWN_COUNT`] without an answer, or
    /// when what else the guest says leaves no trust in the number.
    pub open_fd_count: i64,
    /// Open descriptors in the golden state.
    pub open_fd_count_baseline: i64,
    /// What KVM says the machine is: `running`, `paused` or `stopped` when that is all there is to
    /// say, and `error` otherwise.
    pub vmm_state: &'static str,
    /// What KVM said the machine was in the golden state.
    pub expected_vmm_state: &'static str,
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
    /// Reading back what KVM and the devices hold.
    pub vmm: Duration,
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

/// A machine that was put back, and what the sources say about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedReset {
    /// How the reset went; `None` when what was seen before it left nothing to put back: the
    /// machine was ended as it was found.
    pub outcome: Option<ResetOutcome>,
    /// What the sources said.
    pub verification: Verification,
}

impl Verification {
    /// The verdict: one disagreement is enough, and silence is no agreement.
    pub fn verdict(&self) -> Verdict {
        let count_differs = !self.silent && self.open_fd_count != self.open_fd_count_baseline;
        if !self.findings.is_empty()
            || !self.fs_hash_match()
            || self.vmm_state != self.expected_vmm_state
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
    pub fn fs_hash_match(&self) -> bool {
        self.fs_hash == self.fs_hash_baseline
    }

    /// The protocol's name for what becomes of the machine: `none`, or `halt` when it was ended.
    pub fn divergence_action(&self) -> &'static str {
        if self.passed() { "none" } else { "halt" }
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
        self.before + self.disk + self.vmm + self.memory + self.guest
    }
}

#[cfg(test)]
mod tests;
