//! The pages to put back: KVM's dirty log united with what devices wrote.

use std::sync::MutexGuard;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::kvm::{DirtyEntry, DirtyTracking, KvmError, Vcpu, Vm, raw, reset_rings};
use crate::memory::PAGE_BYTES;

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

/// Collects dirty pages. KVM forgets its log when it is read, so what was collected stays here
/// until the reset that needed it has succeeded.
pub struct Harvest {
    source: Source,
    runs: Vec<Run>,
    restored: Vec<Run>,
}

enum Source {
    /// One bitmap per region, reused.
    Log(Vec<Vec<u64>>),
    /// Entries of the rings, reused.
    Ring(Vec<DirtyEntry>),
}

impl Harvest {
    /// For the memory of `vm`.
    pub fn new(vm: &Vm) -> Self {
        let source = match vm.tracking() {
            DirtyTracking::Log => {
                Source::Log(vm.ram().iter().map(|r| vec![0; raw::dirty_words(r.len())]).collect())
            }
            DirtyTracking::Ring => Source::Ring(Vec::new()),
        };
        Self { source, runs: Vec::new(), restored: Vec::new() }
    }

    /// Adds what was written since the last call. No vCPU and no device may run.
    pub fn gather(&mut self, vm: &Vm, vcpus: &mut [MutexGuard<'_, Vcpu>]) -> Result<(), KvmError> {
        match &mut self.source {
            Source::Log(bitmaps) => {
                for (index, (region, bitmap)) in vm.ram().iter().zip(bitmaps).enumerate() {
                    raw::get_dirty_log(vm.fd(), index as u32, region.len(), bitmap)?;
                    region.bitmap().map().drain_into(bitmap);
                    add_runs(index, bitmap, &mut self.runs);
                }
            }
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
            let base = (index * STRIDE + word_index) * 64;
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
