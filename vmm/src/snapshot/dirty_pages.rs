//! The pages that a reset restores: KVM's dirty log united with what devices wrote.
//!
//! KVM finds a write by protecting the page: the first write after each reset costs the guest a
//! fault. Hot pages, which nearly every command writes, stay writable instead. KVM's log names a hot
//! page from its first write on, and every reset restores it, written or not. A reset that finds nothing
//! but hot pages protects one of them again, which has KVM flush the guest's translations.

use std::ops::Range;
use std::sync::MutexGuard;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::page_run::PageRun;
use super::page_set::PageSet;
use crate::kvm::{DirtyEntry, DirtyTracking, KvmError, Vcpu, Vm, raw, reset_rings};
use crate::memory::WORD_BITS;

/// Collects dirty pages. KVM clears its log of them when it is read, so what was collected stays
/// here until the reset that needed it has succeeded. Hot pages stay in KVM's log.
pub struct DirtyPages {
    source: DirtyLog,
    runs: Vec<PageRun>,
    restored: Vec<PageRun>,
    /// True where reading the log leaves it as it is and clearing is a call of its own. `None` until
    /// hot pages first need that.
    pub manual_clear: Option<bool>,
    /// True when the last collection had KVM protect a page again.
    protected: bool,
}

enum DirtyLog {
    Log(Log),
    /// Entries of the rings, reused.
    Ring(Vec<DirtyEntry>),
}

#[derive(Default)]
struct Log {
    /// One bitmap per region, reused.
    bitmaps: Vec<Vec<u64>>,
    /// Pages to clear in the log of one region, reused.
    forget: Vec<u64>,
    /// A page that stayed in KVM's log at the last collection: slot, word and bit.
    left: Option<(usize, usize, u64)>,
}

/// Which pages to collect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirtyScope {
    /// Every page that may have been written, hot pages included.
    All,
    /// Pages that were written since the last call, without hot pages: KVM does not tell when those
    /// were written.
    SinceReset,
}

impl DirtyPages {
    /// Prepares bitmaps or entries for the memory of `vm`.
    pub fn new(vm: &Vm) -> Self {
        let source = match vm.tracking() {
            DirtyTracking::Log => {
                let bitmaps = vm.ram().iter().map(|r| vec![0; raw::dirty_words(r.len())]).collect();
                DirtyLog::Log(Log { bitmaps, ..Log::default() })
            }
            DirtyTracking::Ring => DirtyLog::Ring(Vec::new()),
        };
        Self {
            source,
            runs: Vec::new(),
            restored: Vec::new(),
            manual_clear: None,
            protected: false,
        }
    }

    /// Adds the pages written since the last call. From the first call with `hot` on, those pages stay
    /// writable, if KVM can do that; every call must name the same set, or none. No vCPU and no device
    /// may run.
    ///
    /// # Errors
    ///
    /// KVM refuses to read or to clear its log or rings.
    pub fn collect(
        &mut self,
        vm: &Vm,
        vcpus: &mut [MutexGuard<'_, Vcpu>],
        hot: Option<&PageSet>,
        scope: DirtyScope,
    ) -> Result<(), KvmError> {
        self.protected = false;
        match &mut self.source {
            DirtyLog::Log(log) => {
                let hot = match hot {
                    Some(pages) if clears_manually(&mut self.manual_clear, vm)? => Some(pages),
                    _ => None,
                };
                self.protected = log.collect(vm, hot, scope, &mut self.runs)?;
            }
            DirtyLog::Ring(entries) => {
                for vcpu in vcpus {
                    vcpu.drain_ring(entries)?;
                }
                for (slot, region) in (0..).zip(vm.ram().iter()) {
                    region.bitmap().map().drain(|page| entries.push((slot, page as u64)));
                }
                // Before the content of the pages is touched (api.rst 8.29).
                let result = reset_rings(vm.fd());
                self.protected = matches!(result, Ok(pages) if pages > 0);
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

    /// Has KVM flush the translations of all vCPUs before their next entry, as it does when it protects
    /// a page: the guest must not write on through what the processor remembers. Where the collection
    /// just before protected none, because all pages in the log are hot, one of those is protected;
    /// the guest's next write to it is a fault, and names it again. Returns false when there is no such
    /// page: nothing has been asked for then.
    ///
    /// # Errors
    ///
    /// KVM refuses to clear its log.
    pub fn flush(&mut self, vm: &Vm) -> Result<bool, KvmError> {
        let DirtyLog::Log(log) = &mut self.source else { return Ok(self.protected) };
        if !self.protected
            && let Some((slot, word, bit)) = log.left.take()
        {
            let region = vm.ram().iter().nth(slot);
            let bytes = region.map_or(0, GuestMemoryRegion::len);
            raw::clear_dirty_log(vm.fd(), slot as u32, bytes, word, &[bit])?;
            self.protected = true;
        }
        Ok(self.protected)
    }

    /// Returns the pages collected. A page may be in it twice after a reset that failed.
    pub fn runs(&self) -> &[PageRun] {
        &self.runs
    }

    /// Number of pages collected, with a page that was collected twice counted twice.
    pub fn pages(&self) -> usize {
        self.runs.iter().map(|run| run.count).sum()
    }

    /// Returns the pages that the last reset restored.
    pub fn restored(&self) -> &[PageRun] {
        &self.restored
    }

    /// Begins another collection: the reset that needed the last one has succeeded.
    pub fn clear(&mut self) {
        std::mem::swap(&mut self.runs, &mut self.restored);
        self.runs.clear();
    }
}

/// Has KVM leave the clearing of its log to us, where it can.
fn clears_manually(known: &mut Option<bool>, vm: &Vm) -> Result<bool, KvmError> {
    if let Some(known) = *known {
        return Ok(known);
    }
    let possible = raw::can_manually_protect_dirty_log(vm.fd());
    if possible {
        raw::enable_manual_dirty_log_protect(vm.fd())?;
    }
    *known = Some(possible);
    Ok(possible)
}

impl Log {
    /// True when KVM has protected a page again.
    fn collect(
        &mut self,
        vm: &Vm,
        hot: Option<&PageSet>,
        scope: DirtyScope,
        runs: &mut Vec<PageRun>,
    ) -> Result<bool, KvmError> {
        let mut protected = false;
        self.left = None;
        for (index, (region, bitmap)) in vm.ram().iter().zip(&mut self.bitmaps).enumerate() {
            raw::get_dirty_log(vm.fd(), index as u32, region.len(), bitmap)?;
            let first = bitmap.iter().position(|word| *word != 0);
            if let Some(hot) = hot {
                if let Some((at, word)) = first.and_then(|at| Some((at, *bitmap.get(at)?))) {
                    self.left.get_or_insert((index, at, word & word.wrapping_neg()));
                }
                let range = split(index, bitmap, hot, scope, &mut self.forget);
                if !range.is_empty() {
                    protected = true;
                    let words = self.forget.get(range.clone()).unwrap_or_default();
                    let slot = index as u32;
                    raw::clear_dirty_log(vm.fd(), slot, region.len(), range.start, words)?;
                }
            }
            // Reading the log protects what is in it, unless clearing is a call of its own.
            protected |= hot.is_none() && first.is_some();
            region.bitmap().map().drain_into(bitmap);
            add_runs(index, bitmap, runs);
        }
        Ok(protected)
    }
}

/// Fills `forget` with the pages of `bitmap` that are not hot, and takes hot pages out of `bitmap` for
/// [`DirtyScope::SinceReset`]. Returns the range of words that has pages to clear.
fn split(
    region: usize,
    bitmap: &mut [u64],
    hot: &PageSet,
    scope: DirtyScope,
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
            *forget = *word & !hot.word(region, index);
            if *forget != 0 {
                range = if range.is_empty() { index } else { range.start }..index + 1;
            }
            if scope == DirtyScope::SinceReset {
                *word = *forget;
            }
        }
    }
    range
}

/// How many words are looked at together: most of memory is clean.
const STRIDE: usize = 8;

fn add_runs(region: usize, bitmap: &[u64], runs: &mut Vec<PageRun>) {
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

fn add_run(region: usize, first: usize, count: usize, runs: &mut Vec<PageRun>) {
    match runs.last_mut() {
        Some(last) if last.region == region && last.first + last.count == first => {
            last.count += count;
        }
        _ => runs.push(PageRun { region, first, count }),
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
            hot in prop::collection::vec((0..2600_usize, 1..40_usize), 0..9),
        ) {
            let runs: Vec<PageRun> =
                hot.iter().map(|&(first, count)| PageRun { region: 1, first, count }).collect();
            let hot = PageSet::of(&runs);
            // Of an earlier, larger region.
            let mut forget = vec![u64::MAX; 50];
            let mut all = bitmap.clone();
            let range = split(1, &mut all, &hot, DirtyScope::All, &mut forget);
            prop_assert_eq!(&all, &bitmap);
            let mut fresh = bitmap.clone();
            prop_assert_eq!(&range, &split(1, &mut fresh, &hot, DirtyScope::SinceReset, &mut forget));
            let expected: Vec<u64> = bitmap
                .iter()
                .enumerate()
                .map(|(index, word)| word & !hot.word(1, index))
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
