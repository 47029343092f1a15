//! Whether a machine that was reset is in its golden state: what independent sources say about it,
//! beside what they said when the golden state was made.

use std::time::{Duration, SystemTime};

use super::ResetOutcome;

/// In place of a number of descriptors nobody was told.
pub const UNKNOWN_COUNT: i64 = -1;

/// What the sources said after a reset, and what they should have said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// When the machine had been put back.
    pub reset_at: SystemTime,
    /// SHA-256 of the golden state, `sha256:` and 64 hex digits.
    pub golden_hash: String,
    /// SHA-256 of the disk as the guest reads it, in the same form; the reason in words when it
    /// could not be computed.
    pub fs_hash: String,
    /// The same of the golden state.
    pub fs_hash_baseline: String,
    /// Open descriptors of the whole guest, sockets excluded; [`UNKNOWN_COUNT`] without an answer.
    pub open_fd_count: i64,
    /// The same of the golden state.
    pub open_fd_count_baseline: i64,
    /// What KVM says the machine is: `running`, `paused`, `stopped`, or `error` for anything else.
    pub vmm_state: &'static str,
    /// The same of the golden state.
    pub expected_vmm_state: &'static str,
    /// The guest gave no answer in time.
    pub silent: bool,
    /// From the end of the reset until every source had spoken.
    pub took: Duration,
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
    /// How the reset went.
    pub outcome: ResetOutcome,
    /// What the sources said.
    pub verification: Verification,
}

impl Verification {
    /// The verdict: one disagreement is enough, and silence is no agreement.
    pub fn verdict(&self) -> Verdict {
        let count_differs = !self.silent && self.open_fd_count != self.open_fd_count_baseline;
        if !self.fs_hash_match() || self.vmm_state != self.expected_vmm_state || count_differs {
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
}
