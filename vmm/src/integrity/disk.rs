//! The disk against its hashes.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::scrub_cursor::ScrubStep;
use super::{Checker, Finding, FindingSource, Location, MAX_FINDINGS};
use crate::devices::block::{Damage, Overlay};

/// Blocks that the kernel maps together when one of them is read.
const NEIGHBOURS: usize = 16;

/// Page table entries that are read for one check, where they have to be read one by one: those of
/// a disk of 64 MiB.
const MAX_ENTRIES: usize = 16_384;

/// What was found on a disk.
#[derive(Debug, Default)]
pub struct DiskFound {
    pub findings: Vec<Finding>,
    /// Root of the tree over what the disk reads as.
    pub root: [u8; 32],
    /// Blocks that were read.
    pub blocks: usize,
}

impl Checker {
    /// What a reset is about to throw away: dirty blocks against the record of what the device
    /// wrote, and blocks that were written although no record says so.
    pub fn before_discard(&mut self, overlay: &mut Overlay) -> io::Result<Vec<Finding>> {
        let mut damages: BTreeMap<usize, Damage> =
            overlay.take_refused().into_iter().map(|damage| (damage.block, damage)).collect();
        let dirty = overlay.dirty_blocks().collect::<Vec<_>>();
        for block in dirty {
            add(&mut damages, overlay.damage(block)?);
        }
        self.copies_of(overlay)?;
        for block in self.copies.iter().cloned().flatten() {
            if !overlay.is_dirty(block) {
                add(&mut damages, overlay.damage(block)?);
            }
        }
        Ok(damages.values().map(finding).collect())
    }

    /// A disk whose overlay was just thrown away: what was thrown away, what was written since
    /// although nothing should have been, and the next `steps` of the rest.
    pub fn after_discard(&mut self, overlay: &mut Overlay, steps: usize) -> io::Result<DiskFound> {
        let mut damages = BTreeMap::new();
        let mut blocks = 0;
        for block in overlay.discarded().iter().cloned().flatten() {
            add(&mut damages, overlay.damage(block)?);
            blocks += 1;
        }
        self.copies_of(overlay)?;
        for block in self.copies.iter().cloned().flatten() {
            add(&mut damages, overlay.damage(block)?);
            blocks += 1;
        }
        // A block with a record was written after the reset, or the reset forgot it.
        for block in overlay.dirty_blocks().take(MAX_FINDINGS) {
            let (was, is) = (overlay.base().memory().leaf(block)?, overlay.expected(block)?);
            if was != is {
                add(&mut damages, Some(Damage { block, was, is }));
            }
        }
        blocks += self.go_round_disk(overlay, steps, &mut damages)?;
        let root = if damages.is_empty() {
            overlay.base().memory().root()?
        } else {
            overlay
                .base()
                .memory()
                .root_with(|block, leaf| damages.get(&block).map_or(leaf, |damage| damage.is))?
        };
        Ok(DiskFound { findings: damages.values().map(finding).collect(), root, blocks })
    }

    /// The next `steps` of the disk, whatever its guest is doing.
    pub fn scrub_disk(&mut self, overlay: &mut Overlay, steps: usize) -> io::Result<DiskFound> {
        let mut damages = BTreeMap::new();
        self.copies_of(overlay)?;
        for block in self.copies.iter().cloned().flatten().filter(|b| !overlay.is_dirty(*b)) {
            add(&mut damages, overlay.damage(block)?);
        }
        let blocks = self.go_round_disk(overlay, steps, &mut damages)?;
        let findings = damages.values().map(finding).collect();
        Ok(DiskFound { findings, blocks, ..DiskFound::default() })
    }

    /// Copies have been looked at before this: what it unmaps is unharmed.
    fn go_round_disk(
        &mut self,
        overlay: &mut Overlay,
        steps: usize,
        damages: &mut BTreeMap<usize, Damage>,
    ) -> io::Result<usize> {
        let base = Arc::clone(overlay.base());
        let sealed = base.memory();
        let mut read = std::mem::take(&mut self.mapped);
        let blocks = self.disk.advance(sealed, steps, |step| {
            match step {
                ScrubStep::Block(block) => {
                    add(damages, overlay.damage(block)?);
                    add_neighbours(&mut read, block);
                }
                // Private copies of such blocks are looked for in the page tables.
                ScrubStep::Zeros(blocks) if sealed.is_hole(&blocks)? => {}
                ScrubStep::Zeros(blocks) => {
                    for block in blocks {
                        add(damages, overlay.damage(block)?);
                        add_neighbours(&mut read, block);
                    }
                }
            }
            Ok::<(), io::Error>(())
        })?;
        // What was only read to be checked need not stay mapped: searching for copies would take
        // longer with every round. The last of it is where the next call goes on.
        let current = read.pop();
        if damages.is_empty() && self.sees_all_copies(overlay) {
            for blocks in read {
                overlay.forget_clean(blocks)?;
            }
        }
        self.mapped.extend(current);
        Ok(blocks)
    }

    fn sees_all_copies(&self, overlay: &Overlay) -> bool {
        self.searches() || overlay.blocks() <= MAX_ENTRIES
    }

    /// Finds private copies: all, or the next part of a large disk where the kernel does not search
    /// for us.
    fn copies_of(&mut self, overlay: &Overlay) -> io::Result<()> {
        self.copies.clear();
        let bytes = overlay.mapping().bytes();
        let count = overlay.blocks();
        if self.sees_all_copies(overlay) {
            return self.find_copies(bytes, 0..count);
        }
        let start = if self.next_entry < count { self.next_entry } else { 0 };
        let end = (start + MAX_ENTRIES).min(count);
        self.next_entry = end;
        self.find_copies(bytes, start..end)
    }
}

fn add(damages: &mut BTreeMap<usize, Damage>, damage: Option<Damage>) {
    if let Some(damage) = damage
        && damages.len() < MAX_FINDINGS
    {
        damages.insert(damage.block, damage);
    }
}

fn add_neighbours(ranges: &mut Vec<Range<usize>>, block: usize) {
    let start = block / NEIGHBOURS * NEIGHBOURS;
    match ranges.last_mut() {
        Some(last) if (last.start..last.end).contains(&block) => {}
        _ => ranges.push(start..start + NEIGHBOURS),
    }
}

fn finding(damage: &Damage) -> Finding {
    Finding {
        source: FindingSource::Disk,
        place: Location::Block { number: damage.block as u64 },
        was: super::sha256_text(&damage.was),
        is: super::sha256_text(&damage.is),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::block::{BLOCK_BYTES, DiskImage};

    /// A disk that is larger than what is read at once, on a kernel that does not search.
    #[test]
    fn a_copy_on_a_large_disk_is_found_part_by_part() {
        let blocks = 2 * MAX_ENTRIES + 10;
        let image = DiskImage::from_bytes(&vec![0; blocks * BLOCK_BYTES]).unwrap();
        let mut overlay = Overlay::new(Arc::new(image)).unwrap();
        let mut checker = Checker::new();
        checker.read_entries_only();
        let last = blocks - 1;
        overlay.mapping_mut().bytes_mut()[last * BLOCK_BYTES] = 1;
        let found: Vec<usize> =
            (0..6).map(|_| checker.before_discard(&mut overlay).unwrap().len()).collect();
        assert_eq!(found, [0, 0, 1, 0, 0, 1]);
    }
}
