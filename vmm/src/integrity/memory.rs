//! Guest memory against golden memory, and golden memory against its hashes.

use std::io;
use std::ops::Range;
use std::slice;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::scrub_cursor::ScrubStep;
use super::{Checker, Finding, FindingSource, Location, MAX_FINDINGS};
use crate::memory::{GoldenMemory, GuestRam, PAGE_BYTES, leaf_of};
use crate::snapshot::PageRun;

/// Pages in a row that take longer to find in the page tables than to leave out there.
const WORTH_LEAVING_OUT: usize = 64;

/// What was found in memory.
#[derive(Debug, Default)]
pub struct MemoryFound {
    pub findings: Vec<Finding>,
    /// Pages that were read.
    pub pages: usize,
}

/// One range of guest memory, as it is and as it must be.
struct Pair<'m> {
    start: u64,
    /// Number of its first page in golden memory.
    first: usize,
    now: &'m [u8],
    then: &'m [u8],
}

impl Pair<'_> {
    fn pages(&self) -> usize {
        self.then.len() / PAGE_BYTES
    }

    fn address(&self, page: usize) -> u64 {
        self.start + (page * PAGE_BYTES) as u64
    }
}

fn pages_of<'b>(bytes: &'b [u8], pages: &Range<usize>) -> Option<&'b [u8]> {
    bytes.get(pages.start.checked_mul(PAGE_BYTES)?..pages.end.checked_mul(PAGE_BYTES)?)
}

impl Checker {
    /// Memory that was just restored: the pages in `restored`, at most `copies` pages that the
    /// mapping has copies of although they are not among them, and the next `steps` of the rest.
    /// Nothing may run.
    pub fn memory(
        &mut self,
        ram: &GuestRam,
        golden: &GoldenMemory,
        restored: &[PageRun],
        (copies, steps): (usize, usize),
    ) -> io::Result<MemoryFound> {
        let mut found = MemoryFound::default();
        let pairs = pairs(ram, golden)?;
        for run in restored {
            let outside = || io::Error::other("a page was restored outside guest memory");
            let pair = pairs.get(run.region).ok_or_else(outside)?;
            found.compare(pair, run.first..(run.first + run.count).min(pair.pages()));
        }
        self.unnamed_copies(&pairs, restored, copies, &mut found)?;
        self.go_round_memory(Some(&pairs), golden, steps, &mut found)?;
        Ok(found)
    }

    /// The next `steps` of golden memory; `ram` too, if that must be golden now.
    pub fn scrub_memory(
        &mut self,
        ram: Option<&GuestRam>,
        golden: &GoldenMemory,
        steps: usize,
    ) -> io::Result<MemoryFound> {
        let mut found = MemoryFound::default();
        let pairs = ram.map(|ram| pairs(ram, golden)).transpose()?;
        self.go_round_memory(pairs.as_deref(), golden, steps, &mut found)?;
        Ok(found)
    }

    /// Pages that were written once, as the host's page tables know, though not since the last
    /// reset, as the log has it.
    fn unnamed_copies(
        &mut self,
        pairs: &[Pair<'_>],
        restored: &[PageRun],
        limit: usize,
        found: &mut MemoryFound,
    ) -> io::Result<()> {
        // As if all regions were one, so that the place to go on is one number.
        let mut unnamed: Vec<(usize, Range<usize>)> = Vec::new();
        for (region, pair) in pairs.iter().enumerate() {
            let named = restored.iter().filter(|run| run.region == region);
            self.copies.clear();
            let mut at = 0;
            for run in named.clone().filter(|run| run.count >= WORTH_LEAVING_OUT) {
                self.find_copies(pair.now, at..run.first.max(at))?;
                at = at.max(run.first + run.count);
            }
            self.find_copies(pair.now, at.min(pair.pages())..pair.pages())?;
            without(&self.copies, named, |pages| unnamed.push((region, pages)));
        }
        let total: usize = unnamed.iter().map(|(_, pages)| pages.len()).sum();
        let mut skip = if total > limit { self.next_copy % total } else { 0 };
        let mut left = limit.min(total);
        self.next_copy = skip + left;
        for (region, pages) in unnamed.iter().chain(&unnamed) {
            if left == 0 {
                break;
            }
            let first = (pages.start + skip).min(pages.end);
            skip -= first - pages.start;
            let end = (first + left).min(pages.end);
            left -= end - first;
            if let Some(pair) = pairs.get(*region) {
                found.compare(pair, first..end);
            }
        }
        Ok(())
    }

    fn go_round_memory(
        &mut self,
        pairs: Option<&[Pair<'_>]>,
        golden: &GoldenMemory,
        steps: usize,
        found: &mut MemoryFound,
    ) -> io::Result<()> {
        let sealed = golden.sealed();
        let pages = self.memory.advance(sealed, steps, |step| {
            let (blocks, is_zeros) = match step {
                ScrubStep::Block(block) => (block..block + 1, false),
                ScrubStep::Zeros(blocks) => (blocks, true),
            };
            // Copies of holes are found in the page tables; reading holes would fill them.
            if is_zeros && sealed.is_hole(&blocks)? {
                return Ok(());
            }
            for block in blocks {
                let Some((address, then)) = golden_page(golden, block) else { continue };
                let (was, is) = (sealed.leaf(block)?, leaf_of(then));
                if was != is {
                    let (was, is) = (super::sha256_text(&was), super::sha256_text(&is));
                    found.add(Location::GoldenPage { address }, was, is);
                }
                let pair = pairs
                    .into_iter()
                    .flatten()
                    .find(|pair| (pair.first..pair.first + pair.pages()).contains(&block));
                if let Some(pair) = pair {
                    found.differing(pair, block - pair.first..block - pair.first + 1);
                }
            }
            Ok::<(), io::Error>(())
        })?;
        found.pages += pages;
        Ok(())
    }
}

impl MemoryFound {
    fn compare(&mut self, pair: &Pair<'_>, pages: Range<usize>) {
        self.pages += pages.len();
        self.differing(pair, pages);
    }

    fn differing(&mut self, pair: &Pair<'_>, pages: Range<usize>) {
        let (now, then) = (pages_of(pair.now, &pages), pages_of(pair.then, &pages));
        let (Some(now), Some(then)) = (now, then) else { return };
        if now == then {
            return;
        }
        let each = now.chunks(PAGE_BYTES).zip(then.chunks(PAGE_BYTES));
        for (page, (now, then)) in pages.zip(each) {
            let differing = now.iter().zip(then).enumerate().find(|(_, (now, then))| now != then);
            if let Some((at, (now, then))) = differing {
                self.add(
                    Location::Page { address: pair.address(page) },
                    format!("{then:#04x} at byte {at:#x}"),
                    format!("{now:#04x} at byte {at:#x}"),
                );
            }
        }
    }

    fn add(&mut self, place: Location, was: String, is: String) {
        let full = self.findings.len() >= MAX_FINDINGS;
        if !full && !self.findings.iter().any(|finding| finding.place == place) {
            self.findings.push(Finding { source: FindingSource::Memory, place, was, is });
        }
    }
}

fn pairs<'m>(ram: &'m GuestRam, golden: &'m GoldenMemory) -> io::Result<Vec<Pair<'m>>> {
    let mut pairs = Vec::with_capacity(golden.regions().len());
    for (shape, region) in golden.regions().iter().zip(ram.iter()) {
        if region.len() as usize != shape.length {
            return Err(io::Error::other("guest memory and golden memory differ in shape"));
        }
        // SAFETY: the mapping belongs to `ram`, has this length and is readable, and nothing
        // writes to it while the machine stands still.
        let now = unsafe { slice::from_raw_parts(region.as_ptr(), shape.length) };
        let first = shape.offset / PAGE_BYTES;
        pairs.push(Pair { start: shape.start, first, now, then: golden.bytes(shape) });
    }
    Ok(pairs)
}

/// Guest-physical address and content of a page of golden memory.
fn golden_page(golden: &GoldenMemory, block: usize) -> Option<(u64, &[u8])> {
    let offset = block * PAGE_BYTES;
    let shape = golden
        .regions()
        .iter()
        .find(|shape| (shape.offset..shape.offset + shape.length).contains(&offset))?;
    let at = offset - shape.offset;
    let content = golden.bytes(shape).get(at..at + PAGE_BYTES)?;
    Some((shape.start + at as u64, content))
}

/// Calls `rest` with what is left of ascending `ranges` without the pages of `named`, which ascend
/// too unless a reset failed: then some are visited more than once.
fn without<'r>(
    ranges: &[Range<usize>],
    named: impl Iterator<Item = &'r PageRun>,
    mut rest: impl FnMut(Range<usize>),
) {
    let mut named = named.peekable();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            while named.next_if(|run| run.first + run.count <= at).is_some() {}
            match named.peek() {
                Some(run) if run.first < range.end => {
                    if at < run.first {
                        rest(at..run.first);
                    }
                    at = (run.first + run.count).max(at);
                }
                _ => {
                    rest(at..range.end);
                    at = range.end;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ranges(lengths: &[(usize, usize)]) -> Vec<Range<usize>> {
        let mut at = 0;
        lengths
            .iter()
            .map(|(gap, length)| {
                let start = at + gap;
                at = start + length;
                start..at
            })
            .collect()
    }

    proptest! {
        #[test]
        fn what_is_left_is_what_nobody_named(
            all in prop::collection::vec((1..9_usize, 1..9_usize), 0..20),
            named in prop::collection::vec((1..9_usize, 1..9_usize), 0..20),
        ) {
            let (all, named) = (ranges(&all), ranges(&named));
            let runs: Vec<PageRun> = named
                .iter()
                .map(|range| PageRun { region: 0, first: range.start, count: range.len() })
                .collect();
            let mut left = Vec::new();
            without(&all, runs.iter(), |range| left.extend(range));
            let named: BTreeSet<usize> = named.into_iter().flatten().collect();
            let expected: Vec<usize> =
                all.into_iter().flatten().filter(|page| !named.contains(page)).collect();
            prop_assert_eq!(left, expected);
        }
    }
}
