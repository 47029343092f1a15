//! How much is read again, and what came of it.

use std::time::Duration;

use super::Finding;
use crate::snapshot::Golden;

/// How much of what was not touched is read again, beside all that was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntegrityPlan {
    /// Untouched blocks of the disk. Each costs one SHA-256 of 4096 bytes.
    pub blocks: usize,
    /// Untouched pages of memory. Each costs one SHA-256 of 4096 bytes and a comparison.
    pub pages: usize,
    /// Everything: the whole disk and all of memory.
    pub deep: bool,
}

impl Default for IntegrityPlan {
    fn default() -> Self {
        Self { blocks: 4, pages: 4, deep: false }
    }
}

impl IntegrityPlan {
    /// Reads everything again.
    pub fn deep() -> Self {
        Self { deep: true, ..Self::default() }
    }

    /// In how many resets all of the disk and all of memory will have been read again. Zero where
    /// there is nothing to read, `usize::MAX` where this plan never gets to the end.
    pub fn resets_for_all(&self, golden: &Golden) -> (usize, usize) {
        let resets = |all: usize, each: usize| match (all, each) {
            (0, _) => 0,
            _ if self.deep => 1,
            (_, 0) => usize::MAX,
            (all, each) => all.div_ceil(each),
        };
        (resets(golden.disk_blocks(), self.blocks), resets(golden.memory_pages(), self.pages))
    }
}

/// What a check found and what it cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IntegrityReport {
    /// Everything that is not as it should be; at most a few hundred. Empty after a good reset.
    pub findings: Vec<Finding>,
    /// Root of the Merkle tree over what the guest would read from its disk, as far as it was read
    /// again: that of the golden disk unless a block was found to differ. `None` without a disk.
    pub disk_root: Option<[u8; 32]>,
    /// Blocks that were read again.
    pub blocks: usize,
    /// Pages that were read again.
    pub pages: usize,
    /// What it cost.
    pub took: IntegrityParts,
}

/// What each part of a check cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IntegrityParts {
    /// Reading state back from KVM and the devices.
    pub state: Duration,
    /// Reading memory.
    pub memory: Duration,
    /// Reading the disk.
    pub disk: Duration,
}

impl IntegrityParts {
    /// All parts together.
    pub fn total(&self) -> Duration {
        self.state + self.memory + self.disk
    }
}
