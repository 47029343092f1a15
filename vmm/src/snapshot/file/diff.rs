//! What differs between two golden states.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Serialize;

use super::expect::check_processor;
use super::format::{FileHeader, PAGE, hex};
use super::sparse::{self, Run};
use super::{SnapshotError, open, read_file};
use crate::arch::Named;
use crate::devices::{DeviceState, DeviceStates};
use crate::snapshot::Golden;

/// Everything in which two golden states differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Diff {
    /// What they were made with and on.
    pub made_with: Vec<Change>,
    /// Guest memory, as far as both have it.
    pub memory: Vec<Range>,
    /// Registers, by vCPU.
    pub vcpus: Vec<VcpuChange>,
    /// Interrupt controllers, timer and clock.
    pub machine: Vec<Change>,
    /// Devices.
    pub devices: Vec<Change>,
    /// Blocks of the disk, as far as both have one.
    pub disk: Vec<Range>,
}

/// A value that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Name of the register.
    pub name: String,
    /// In the first state.
    pub left: String,
    /// In the second state.
    pub right: String,
}

/// A register that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VcpuChange {
    /// Which vCPU.
    pub vcpu: usize,
    /// The register and its values.
    #[serde(flatten)]
    pub change: Change,
}

/// Consecutive pages of memory, or blocks of a disk, of 4 KiB each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Range {
    /// Guest-physical address, or position on the disk, of the first byte.
    pub start: u64,
    /// How many.
    pub pages: u64,
}

impl Diff {
    /// Compares two files, which may be snapshots of other hosts.
    ///
    /// # Errors
    ///
    /// A file cannot be opened or read, or is no undamaged snapshot of this version of the format.
    pub fn of_files(left: &Path, right: &Path) -> Result<Self, SnapshotError> {
        let left = read_file(open(left)?, None)?.golden;
        let right = read_file(open(right)?, None)?.golden;
        Self::between(&left, &right)
    }

    /// Compares two states.
    ///
    /// # Errors
    ///
    /// Memory or disk of a state cannot be read.
    pub fn between(left: &Golden, right: &Golden) -> Result<Self, SnapshotError> {
        let mut diff = Self { made_with: made_with(left, right)?, ..Self::default() };
        let (one, other) = (left.memory.sealed().file(), right.memory.sealed().file());
        for (mine, others) in left.memory.regions().iter().zip(right.memory.regions()) {
            let length = mine.length.min(others.length) as u64;
            let places = [(one, mine.offset as u64), (other, others.offset as u64)];
            diff.memory.extend(ranges(places, length, mine.start)?);
        }
        for (vcpu, (mine, others)) in left.vcpus.iter().zip(&right.vcpus).enumerate() {
            let mine = mine.state().describe();
            let found = changes(mine, others.state().describe());
            diff.vcpus.extend(found.into_iter().map(|change| VcpuChange { vcpu, change }));
        }
        diff.machine = changes(left.vm.describe(), right.vm.describe());
        diff.devices = devices(&left.devices, &right.devices);
        if let (Some(one), Some(other)) = (&left.disk, &right.disk) {
            let places = [(one.memory().file(), 0), (other.memory().file(), 0)];
            diff.disk = ranges(places, one.length().min(other.length()), 0)?;
        }
        Ok(diff)
    }

    /// True when the states are equal.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn made_with(left: &Golden, right: &Golden) -> Result<Vec<Change>, SnapshotError> {
    let named = |golden: &Golden| -> Result<Vec<Named>, SnapshotError> {
        let FileHeader { vmm_version, origin, vcpus, disk, tsc_offset_works, .. } =
            FileHeader::of(golden)?;
        let sha = |sha: Option<[u8; 32]>| sha.map_or("none".to_owned(), |sha| hex(&sha));
        Ok([
            ("version of the program", vmm_version),
            ("kernel SHA-256", hex(&origin.kernel_sha256)),
            ("rootfs SHA-256", sha(origin.rootfs_sha256)),
            ("disk SHA-256", sha(disk.map(|(sha, _)| sha))),
            ("disk bytes", disk.map_or(0, |(_, bytes)| bytes).to_string()),
            ("command line", origin.cmdline),
            ("memory in MiB", origin.memory_mib.to_string()),
            ("vCPUs", vcpus.to_string()),
            ("guest CID", origin.guest_cid.to_string()),
            ("console bytes", origin.console_bytes.to_string()),
            ("TSC can be restored", tsc_offset_works.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into())
    };
    let mut changes = changes(named(left)?, named(right)?);
    if let Err(SnapshotError::Mismatch { what, snapshot, here }) =
        check_processor(&left.cpuid, &right.cpuid)
    {
        changes.push(Change { name: what, left: snapshot, right: here });
    }
    Ok(changes)
}

fn devices(left: &DeviceStates, right: &DeviceStates) -> Vec<Change> {
    let named = |states: &DeviceStates| -> Vec<Named> {
        states.iter().flat_map(DeviceState::describe).collect()
    };
    let mut changes = changes(named(left), named(right));
    // A description leaves out what would be too long: the bytes in a connection's buffers.
    for mismatch in left.compare(right) {
        if !changes.iter().any(|change| change.name.starts_with(mismatch.part)) {
            let name = format!("{} content", mismatch.part);
            changes.push(Change { name, left: mismatch.was, right: mismatch.is });
        }
    }
    changes
}

/// Pairs values by name. Names are in the order of the first list, then those only in the second.
fn changes(left: Vec<Named>, right: Vec<Named>) -> Vec<Change> {
    let order: Vec<String> = right.iter().map(|(name, _)| name.clone()).collect();
    let mut others: BTreeMap<String, String> = right.into_iter().collect();
    let absent = || "absent".to_owned();
    let mut changes = Vec::new();
    for (name, left) in left {
        let right = others.remove(&name).unwrap_or_else(absent);
        if left != right {
            changes.push(Change { name, left, right });
        }
    }
    for name in order {
        if let Some(right) = others.remove(&name) {
            changes.push(Change { name, left: absent(), right });
        }
    }
    changes
}

/// The pages that differ in `length` bytes of two files, each from its own offset on; `base` is
/// the address of the first.
fn ranges(places: [(&File, u64); 2], length: u64, base: u64) -> io::Result<Vec<Range>> {
    let [(one, one_offset), (other, other_offset)] = places;
    let mut runs = sparse::runs(one, one_offset, length)?;
    runs.extend(sparse::runs(other, other_offset, length)?);
    runs.sort_unstable_by_key(|run| run.first);
    let mut found: Vec<Range> = Vec::new();
    let mut next = 0;
    let (mut mine, mut others) = ([0; PAGE], [0; PAGE]);
    for run in runs {
        let end = run.first + run.count;
        for page in run.first.max(next)..end {
            let (start, count) = Run { first: page, count: 1 }.bytes(length);
            let mine = mine.get_mut(..count as usize).unwrap_or_default();
            let others = others.get_mut(..count as usize).unwrap_or_default();
            one.read_exact_at(mine, one_offset + start)?;
            other.read_exact_at(others, other_offset + start)?;
            if mine == others {
                continue;
            }
            match found.last_mut() {
                Some(last) if last.start + last.pages * PAGE as u64 == base + start => {
                    last.pages += 1;
                }
                _ => found.push(Range { start: base + start, pages: 1 }),
            }
        }
        next = next.max(end);
    }
    Ok(found)
}
