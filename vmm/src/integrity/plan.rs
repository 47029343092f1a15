//! How much is read again, and what came of it.

use std::time::Duration;

use super::Finding;
use super::scrub_cursor::calls_for_all;
use crate::snapshot::Golden;

/// How much of what was not touched is read again, beside all that was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct IntegrityPlan {
    /// Untouched blocks of the disk, each at the price of one SHA-256 of 4096 bytes. 64 blocks of
    /// zeros count as four.
    pub blocks: usize,
    /// Untouched pages of memory, each at the price of one SHA-256 of 4096 bytes and a comparison.
    /// 64 pages of zeros count as four.
    pub pages: usize,
    /// Pages that the machine has copies of though the guest did not write to them before the last
    /// reset, each at the price of a comparison. If there are more, others come next time.
    pub copies: usize,
    /// Everything: the whole disk and all of memory.
    pub deep: bool,
}

impl Default for IntegrityPlan {
    /// Costs some tens of microseconds, and one for every three or four copies.
    fn default() -> Self {
        Self { blocks: 4, pages: 4, copies: 2048, deep: false }
    }
}

impl IntegrityPlan {
    /// Reads everything again.
    pub fn deep() -> Self {
        Self { deep: true, ..Self::default() }
    }

    /// In how many resets with a check after each all of the disk and all of memory will have been
    /// read again, golden memory included. Zero where there is nothing to read, `usize::MAX` where
    /// this plan never gets to the end. Hashes what has no hash yet.
    pub fn resets_for_all(&self, golden: &Golden) -> (usize, usize) {
        let calls = |sealed, steps| match calls_for_all(sealed, steps) {
            Ok(Some(calls)) => calls,
            Ok(None) | Err(_) => usize::MAX,
        };
        let disk = golden.disk.as_ref();
        (
            disk.map_or(0, |disk| calls(disk.memory(), self.disk_steps())),
            calls(golden.memory.sealed(), self.memory_steps()),
        )
    }

    pub(crate) fn disk_steps(&self) -> usize {
        if self.deep { usize::MAX } else { self.blocks }
    }

    pub(crate) fn memory_steps(&self) -> usize {
        if self.deep { usize::MAX } else { self.pages }
    }

    pub(crate) fn copies_at_once(&self) -> usize {
        if self.deep { usize::MAX } else { self.copies }
    }
}

/// What a check found and what it cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IntegrityReport {
    /// Everything that is not as it should be; at most a few hundred. Empty after a good reset.
    pub findings: Vec<Finding>,
    /// Differences that are no tampering: KVM or the processor carried them past the reset. A closed
    /// table says which there are. The machine is to be replaced, and nothing else need stop.
    pub residues: Vec<Finding>,
    /// Root of the Merkle tree over what the guest would read from its disk, as far as it was read
    /// again: that of the golden disk unless a block was found to differ. `None` without a disk.
    pub disk_root: Option<[u8; 32]>,
    /// False where this process cannot read its page tables: a page or block that was written past
    /// every log is then only found by the parts that each check reads in turn. See
    /// [`open_page_tables`](crate::open_page_tables).
    pub page_tables: bool,
    /// Blocks that were read again.
    pub blocks: usize,
    /// Pages that were read again.
    pub pages: usize,
    /// What it cost.
    pub took: IntegrityParts,
}

/// What each part of a check cost: processor time, of which not all is waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IntegrityParts {
    /// Reading state back from KVM and the devices, beside the other two.
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
