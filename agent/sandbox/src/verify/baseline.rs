//! What the sources say about a machine in its golden state.

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::evidence::{Descriptors, Evidence, RunState, sha256_text};
use super::finding::{self, Finding, Location, Source};
use super::inventory::GuestInventory;
use super::{BLOCK_BYTES, Verification};

/// More descriptors than any guest can have open, and few enough to be exact in JSON (RFC 7493 2.2).
const MAX_COUNT: i64 = (1 << 53) - 1;
/// A leaf of a disk of zeros.
static BLOCK: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// What every machine of one golden state is compared with. Only values that could be wrong get
/// in: what could not tell a good machine from a bad one is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baseline {
    golden: [u8; 32],
    disk: [u8; 32],
    descriptors: i64,
    inventory: GuestInventory,
}

/// Why nothing can be compared with what was measured.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BaselineError {
    /// The disk's hash is that of something else than a disk.
    #[error("the disk's hash is {0}; build the image again")]
    TrivialDisk(&'static str),
    /// The disk could not be hashed.
    #[error("the disk could not be hashed: {0}")]
    NoDisk(String),
    /// A restored machine reads something else than what was captured.
    #[error("the disk of a restored machine is not the one that was captured; boot again")]
    OtherDisk,
    /// The golden state's hash says nothing.
    #[error("the golden state's hash is {0}; boot again")]
    TrivialGolden(&'static str),
    /// A guest that answers has something open.
    #[error("the guest cannot have {0} descriptors open; look at its guest program")]
    Descriptors(u64),
    /// The guest was asked, and did not say.
    #[error("the guest did not count its descriptors: {0}")]
    NoDescriptors(String),
    /// The machine did not run as it should.
    #[error("the restored machine is {run_state}: {}", .differences.join("; "))]
    NotGolden {
        /// What it was doing.
        run_state: RunState,
        /// What was not as captured.
        differences: Vec<String>,
    },
}

/// What a golden state says about itself, computed from what was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoldenFacts {
    /// SHA-256 of all of it.
    pub hash: [u8; 32],
    /// Root of the Merkle tree over the 4096-byte blocks of its disk (RFC 6962 2.1, SHA-256).
    pub disk_root: [u8; 32],
    /// Size of its disk, in bytes.
    pub disk_bytes: u64,
}

impl Baseline {
    /// What was measured on a machine that had been reset, if it can serve as a baseline.
    ///
    /// # Errors
    ///
    /// A source said nothing, or said something trivial such as the hash of an empty disk.
    pub fn measured(golden: GoldenFacts, evidence: &Evidence) -> Result<Self, BaselineError> {
        let disk = *evidence.disk.as_ref().map_err(|e| BaselineError::NoDisk(e.clone()))?;
        if let Some(what) = trivial(&disk).or_else(|| zeros(&disk, golden.disk_bytes)) {
            return Err(BaselineError::TrivialDisk(what));
        }
        if disk != golden.disk_root {
            return Err(BaselineError::OtherDisk);
        }
        if let Some(what) = trivial(&golden.hash) {
            return Err(BaselineError::TrivialGolden(what));
        }
        if evidence.run_state != RunState::Running || !evidence.differences.is_empty() {
            return Err(BaselineError::NotGolden {
                run_state: evidence.run_state,
                differences: evidence.differences.iter().map(ToString::to_string).collect(),
            });
        }
        let descriptors = match &evidence.descriptors {
            Descriptors::Count(count) => usable(*count)?,
            Descriptors::Silent => {
                return Err(BaselineError::NoDescriptors("it said nothing".to_owned()));
            }
            Descriptors::Unusable(reason) => {
                return Err(BaselineError::NoDescriptors(reason.clone()));
            }
            Descriptors::NotAsked => {
                return Err(BaselineError::NoDescriptors("it was not asked".to_owned()));
            }
        };
        Ok(Self { golden: golden.hash, disk, descriptors, inventory: evidence.inventory.clone() })
    }

    /// SHA-256 of the golden state.
    pub fn golden_hash(&self) -> [u8; 32] {
        self.golden
    }

    /// Root of the Merkle tree over its disk.
    pub fn disk_root(&self) -> [u8; 32] {
        self.disk
    }

    /// Open descriptors of its guest, sockets excluded.
    pub fn descriptors(&self) -> i64 {
        self.descriptors
    }

    /// What its guest says of its processes and its memory.
    pub fn inventory(&self) -> &GuestInventory {
        &self.inventory
    }

    /// This baseline with another number of open descriptors, so that tests see a count that differs.
    #[cfg(test)]
    #[must_use]
    pub fn with_descriptors(self, descriptors: i64) -> Self {
        Self { descriptors, ..self }
    }

    /// Puts what the sources said beside what they should have said.
    pub fn verify(&self, evidence: Evidence) -> Verification {
        let Evidence {
            reset_at, disk, descriptors, inventory, run_state, differences, parts, ..
        } = evidence;
        // Anything but the disk speaks of the machine: one that runs on from another state than the
        // golden one is no running machine.
        let machine_differs =
            differences.iter().any(|f| matches!(f.source, Source::Monitor | Source::Memory));
        let mut findings = Vec::new();
        let (disk_hash, of_disk) = self.verify_disk(disk, &differences);
        findings.extend(of_disk);
        let (descriptors, silent, of_guest) = self.verify_descriptors(descriptors);
        findings.extend(of_guest);
        let (of_account, odd) = inventory.compare(&self.inventory);
        // The relay is told the count alone: it must not agree when its source does not.
        let descriptors = descriptors.filter(|_| of_account.is_empty());
        findings.extend(of_account);
        if !matches!(run_state, RunState::Running | RunState::Held) {
            findings.push(Finding::new(
                Source::Monitor,
                Location::RunState,
                RunState::Running,
                run_state,
            ));
        }
        findings.extend(differences);
        let run_state = match run_state {
            RunState::Running if machine_differs => RunState::Error,
            state => state,
        };
        let more_findings = finding::bound(&mut findings);
        let mut suspicions = evidence.suspicions;
        suspicions.extend(odd);
        finding::bound(&mut suspicions);
        Verification {
            reset_at,
            golden_hash: sha256_text(&self.golden),
            disk_hash,
            golden_disk_hash: sha256_text(&self.disk),
            descriptors,
            golden_descriptors: self.descriptors,
            run_state,
            silent,
            findings,
            more_findings,
            suspicions,
            parts,
        }
    }

    /// The hash to tell, and what is wrong with it. Blocks that were found say more than a root
    /// that differs.
    fn verify_disk(
        &self,
        disk: Result<[u8; 32], String>,
        differences: &[Finding],
    ) -> (Option<String>, Option<Finding>) {
        let was = sha256_text(&self.disk);
        let named = differences.iter().any(|f| f.source == Source::Disk);
        match disk {
            Ok(hash) if hash == self.disk => (Some(was), None),
            Ok(hash) => {
                let is = sha256_text(&hash);
                let finding = Finding::new(Source::Disk, Location::WholeDisk, was, &is);
                (Some(is), (!named).then_some(finding))
            }
            Err(reason) => {
                let is = format!("not hashed ({reason})");
                let finding = Finding::new(Source::Disk, Location::WholeDisk, was, is);
                (None, (!named).then_some(finding))
            }
        }
    }

    /// The count to tell if there is one, whether the guest was silent, and what is wrong with its answer.
    fn verify_descriptors(&self, descriptors: Descriptors) -> (Option<i64>, bool, Option<Finding>) {
        let then = self.descriptors;
        let finding = |is: &dyn std::fmt::Display| {
            Some(Finding::new(Source::Guest, Location::Descriptors, then, is))
        };
        match descriptors {
            Descriptors::Count(count) => {
                let count = i64::try_from(count).map_or(MAX_COUNT, |count| count.min(MAX_COUNT));
                (Some(count), false, if count == then { None } else { finding(&count) })
            }
            Descriptors::Silent => (None, true, None),
            Descriptors::Unusable(reason) => {
                (None, false, finding(&format!("not counted ({reason})")))
            }
            Descriptors::NotAsked => (None, false, None),
        }
    }
}

fn usable(count: u64) -> Result<i64, BaselineError> {
    match i64::try_from(count) {
        Ok(usable @ 1..MAX_COUNT) => Ok(usable),
        _ => Err(BaselineError::Descriptors(count)),
    }
}

/// What a hash is of, if it is of nothing worth hashing. The root of a tree without leaves is the
/// hash of nothing, and one leaf may be as trivial as that.
fn trivial(hash: &[u8; 32]) -> Option<&'static str> {
    let of = |bytes: &[u8]| <[u8; 32]>::from(Sha256::digest(bytes));
    if hash == &[0; 32] {
        Some("no hash but zeros")
    } else if [of(b""), leaf(b"")].contains(hash) {
        Some("that of nothing")
    } else if [of(b"\n"), leaf(b"\n")].contains(hash) {
        Some("that of an empty line")
    } else {
        None
    }
}

/// Whether a root is that of a disk of zeros.
fn zeros(root: &[u8; 32], bytes: u64) -> Option<&'static str> {
    let blocks = bytes.div_ceil(BLOCK.len() as u64);
    (blocks > 0 && root_of_equal(leaf(&BLOCK), blocks) == *root).then_some("that of zeros")
}

/// RFC 6962 2.1: a leaf is hashed behind 0x00, a node behind 0x01.
fn leaf(bytes: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update([0]).chain_update(bytes).finalize().into()
}

fn node(left: [u8; 32], right: [u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// Root of a tree whose leaves, at least one, are all the same. RFC 6962 2.1: the left half has the
/// largest power of two of leaves that is smaller than all.
fn root_of_equal(leaf: [u8; 32], leaves: u64) -> [u8; 32] {
    // A full tree for each bit of the number, the largest on the left.
    let (mut full, mut root) = (leaf, None);
    for bit in 0..u64::BITS - leaves.leading_zeros() {
        if leaves >> bit & 1 == 1 {
            root = Some(root.map_or(full, |right| node(full, right)));
        }
        full = node(full, full);
    }
    root.unwrap_or(leaf)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As RFC 6962 2.1 defines it.
    fn by_definition(leaf: [u8; 32], leaves: u64) -> [u8; 32] {
        if leaves == 1 {
            return leaf;
        }
        let left = leaves.next_power_of_two() / 2;
        node(by_definition(leaf, left), by_definition(leaf, leaves - left))
    }

    #[test]
    fn the_root_of_equal_leaves_is_that_of_the_definition() {
        let leaf = leaf(&BLOCK);
        for leaves in 1..70 {
            assert_eq!(root_of_equal(leaf, leaves), by_definition(leaf, leaves), "{leaves}");
        }
    }
}
