//! The pages to put back: KVM's dirty log united with what devices wrote.
//!
//! KVM finds a write by protecting the page: the first one after each reset costs the guest a
//! fault. Pages that nearly every command writes are better left writable. KVM's log names them for
//! ever then, and every reset puts them back, whether they were written or not.

use std::ops::Range;
use std::sync::MutexGuard;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::PageSet;
use crate::kvm::{DirtyEntry, DirtyTracking, KvmError, Vcpu, Vm, raw, reset_rings};
use crate::memory::{PAGE_BYTES, WORD_BITS};

/// Consecutive dirty pages of one memory region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Index of the region, which is also its memslot.
    pub region: usize,
    /// First page, counted from the start of the region.
    pub first: usize,
    /// Number of pages.
    pub count: usize,
}

/// Collects dirty pages. KVM forgets its log when it is read, but for pages that stay writable, so
/// what was collected stays here until the reset that needed it has succeeded.
pub struct Harvest {
    source: Source,
    runs: Vec<Run>,
    restored: Vec<Run>,
}

enum Source {
    Log(Log),
    /// Entries of the rings, reused.
    Ring(Vec<DirtyEntry>),
}

#[derive(Default)]
struct Log {
    /// One bitmap per region, reused.
    bitmaps: Vec<Vec<u64>>,
    /// Pages to be forgotten of one region, reused.
    forget: Vec<u64>,
    /// Whether reading the log leaves it as it is, so that forgetting is a call of its own; nothing
    /// until that was needed.
    by_hand: Option<bool>,
}

/// Which pages somebody wants to know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All that may have been written.
    All,
    /// Those that were written since the last call: of pages that stay writable, nobody knows.
    Fresh,
}

impl Harvest {
    /// For the memory of `vm`.
    pub fn new(vm: &Vm) -> Self {
        let source = match vm.tracking() {
            DirtyTracking::Log => {
                let bitmaps = vm.ram().iter().map(|r| vec![0; raw::dirty_words(r.len())]).collect();
                Source::Log(Log { bitmaps, ..Log::default() })
            }
            DirtyTracking::Ring => Source::Ring(Vec::new()),
        };
        Self { source, runs: Vec::new(), restored: Vec::new() }
    }

    /// Adds what was written since the last call. The pages in `writable` stay writable from now
    /// on, if KVM can do that; it must be the same set, or none, in every call. No vCPU and no
    /// device may run.
    pub fn gather(
        &mut self,
        vm: &Vm,
        vcpus: &mut [MutexGuard<'_, Vcpu>],
        writable: Option<&PageSet>,
        wanted: Wanted,
    ) -> Result<(), KvmError> {
        match &mut self.source {
            Source::Log(log) => log.gather(vm, writable, wanted, &mut self.runs)?,
            Source::Ring(entries) => {
                for vcpu in vcpus {
                    vcpu.drain_ring(entries)?;
                }
                for (slot, region) in (0..).zip(vm.ram().iter()) {
                    region.bitmap().map().drain(|page| entries.push((slot, page as u64)));
                }
                // Before the content of the pages is touched (api.rst 8.29).
                let result = reset_rings(vm.fd());
                entries.sort_unstable();
                entries.dedup();
                for (slot, page) in entries.drain(..) {
                    add_run(slot as usize, page as usize, 1, &mut self.runs);
                }
                result?;
            }
        }
        Ok(())
    }

    /// What was collected. Pages may come twice after a reset that failed.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Number of pages collected.
    pub fn pages(&self) -> usize {
        self.runs.iter().map(|run| run.count).sum()
    }

    /// As on a KVM whose log is forgotten when it is read, and only then.
    #[cfg(test)]
    pub fn forget_when_read(&mut self) {
        if let Source::Log(log) = &mut self.source {
            log.by_hand = Some(false);
        }
    }

    /// What was put back last.
    pub fn restored(&self) -> &[Run] {
        &self.restored
    }

    /// What was collected has been put back: another collection begins.
    pub fn commit(&mut self) {
        std::mem::swap(&mut self.runs, &mut self.restored);
        self.runs.clear();
    }
}

impl Log {
    fn forgets_by_hand(&mut self, vm: &Vm) -> Result<bool, KvmError> {
        if let Some(known) = self.by_hand {
            return Ok(known);
        }
        let possible = raw::can_forget_by_hand(vm.fd());
        if possible {
            raw::forget_dirty_pages_by_hand(vm.fd())?;
        }
        self.by_hand = Some(possible);
        Ok(possible)
    }

    fn gather(
        &mut self,
        vm: &Vm,
        writable: Option<&PageSet>,
        wanted: Wanted,
        runs: &mut Vec<Run>,
    ) -> Result<(), KvmError> {
        let writable = match writable {
            Some(pages) if self.forgets_by_hand(vm)? => Some(pages),
            _ => None,
        };
        for (index, (region, bitmap)) in vm.ram().iter().zip(&mut self.bitmaps).enumerate() {
            raw::get_dirty_log(vm.fd(), index as u32, region.len(), bitmap)?;
            if let Some(writable) = writable {
                let range = split(index, bitmap, writable, wanted, &mut self.forget);
                if !range.is_empty() {
                    let words = self.forget.get(range.clone()).unwrap_or_default();
                    let slot = index as u32;
                    raw::clear_dirty_log(vm.fd(), slot, region.len(), range.start, words)?;
                }
            }
            region.bitmap().map().drain_into(bitmap);
            add_runs(index, bitmap, runs);
        }
        Ok(())
    }
}

/// Fills `forget` with the pages of `bitmap` that do not stay writable, and takes those that do out
/// of `bitmap` where only fresh ones are wanted. The range of words that is to be forgotten.
fn split(
    region: usize,
    bitmap: &mut [u64],
    writable: &PageSet,
    wanted: Wanted,
    forget: &mut Vec<u64>,
) -> Range<usize> {
    forget.resize(bitmap.len(), 0);
    let mut range = 0..0;
    for (group, (words, forget)) in
        bitmap.chunks_mut(STRIDE).zip(forget.chunks_mut(STRIDE)).enumerate()
    {
        forget.fill(0);
        if words.iter().fold(0, |all, word| all | word) == 0 {
            continue;
        }
        for (at, (word, forget)) in words.iter_mut().zip(forget).enumerate() {
            let index = group * STRIDE + at;
            *forget = *word & !writable.word(region, index);
            if *forget != 0 {
                range = if range.is_empty() { index } else { range.start }..index + 1;
            }
            if wanted == Wanted::Fresh {
                *word = *forget;
            }
        }
    }
    range
}

impl Run {
    /// Its bytes, from the start of the region.
    pub fn bytes(&self) -> std::ops::Range<usize> {
        self.first * PAGE_BYTES..(self.first + self.count) * PAGE_BYTES
    }
}

/// How many words are looked at together: most of memory is clean.
const STRIDE: usize = 8;

fn add_runs(region: usize, bitmap: &[u64], runs: &mut Vec<Run>) {
    for (index, words) in bitmap.chunks(STRIDE).enumerate() {
        if words.iter().fold(0, |all, word| all | word) == 0 {
            continue;
        }
        for (word_index, word) in words.iter().enumerate() {
            let mut word = *word;
            let base = (index * STRIDE + word_index) * WORD_BITS;
            while word != 0 {
                let skip = word.trailing_zeros();
                let count = (word >> skip).trailing_ones();
                word &= u64::MAX.checked_shl(skip + count).unwrap_or(0);
                add_run(region, base + skip as usize, count as usize, runs);
            }
        }
    }
}

fn add_run(region: usize, first: usize, count: usize, runs: &mut Vec<Run>) {
    match runs.last_mut() {
        Some(last) if last.region == region && last.first + last.count == first => {
            last.count += count;
        }
        _ => runs.push(Run { region, first, count }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_stays_writable_is_not_forgotten_and_not_fresh(
            bitmap in prop::collection::vec(prop_oneof![Just(0), any::<u64>()], 0..40),
            habits in prop::collection::vec((0..2600_usize, 1..40_usize), 0..9),
        ) {
            let runs: Vec<Run> =
                habits.iter().map(|&(first, count)| Run { region: 1, first, count }).collect();
            let writable = PageSet::of(&runs);
            // Of an earlier, larger region.
            let mut forget = vec![u64::MAX; 50];
            let mut all = bitmap.clone();
            let range = split(1, &mut all, &writable, Wanted::All, &mut forget);
            prop_assert_eq!(&all, &bitmap);
            let mut fresh = bitmap.clone();
            prop_assert_eq!(&range, &split(1, &mut fresh, &writable, Wanted::Fresh, &mut forget));
            let expected: Vec<u64> = bitmap
                .iter()
                .enumerate()
                .map(|(index, word)| word & !writable.word(1, index))
                .collect();
            prop_assert_eq!(&fresh, &expected);
            prop_assert_eq!(&forget, &expected);
            let named = |index: &usize| expected[*index] != 0;
            let first = (0..expected.len()).find(named);
            let last = (0..expected.len()).rfind(named);
            prop_assert_eq!(range, first.unwrap_or(0)..last.map_or(0, |last| last + 1));
        }

        #[test]
        fn runs_are_the_bits_of_the_bitmap(bitmap in prop::collection::vec(
            prop_oneof![Just(0), Just(u64::MAX), any::<u64>()], 0..40,
        )) {
            let mut runs = Vec::new();
            add_runs(1, &bitmap, &mut runs);
            let mut again = vec![0_u64; bitmap.len()];
            for run in &runs {
                prop_assert!(run.region == 1 && run.count > 0);
                for page in run.first..run.first + run.count {
                    prop_assert_eq!(again[page / 64] >> (page % 64) & 1, 0, "twice");
                    again[page / 64] |= 1 << (page % 64);
                }
            }
            prop_assert_eq!(again, bitmap);
            let apart = runs.windows(2).all(|w| w[0].first + w[0].count < w[1].first);
            prop_assert!(apart, "runs that touch are one run");
        }
    }
}
