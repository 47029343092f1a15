//! Sets of pages of a machine's memory.

use super::page_run::PageRun;
use crate::memory::WORD_BITS;

/// Some pages of a machine's memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PageSet {
    /// One bitmap for each region, as long as its last member needs.
    regions: Vec<Vec<u64>>,
}

impl PageSet {
    pub(crate) fn of(runs: &[PageRun]) -> Self {
        let mut set = Self::default();
        for run in runs {
            if set.regions.len() <= run.region {
                set.regions.resize_with(run.region + 1, Vec::new);
            }
            let words = &mut set.regions[run.region];
            for page in run.first..run.first + run.count {
                let word = page / WORD_BITS;
                if words.len() <= word {
                    words.resize(word + 1, 0);
                }
                words[word] |= 1 << (page % WORD_BITS);
            }
        }
        set
    }

    /// Number of pages.
    pub fn len(&self) -> usize {
        self.regions.iter().flatten().map(|word| word.count_ones() as usize).sum()
    }

    /// True without any page.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pages that are in both.
    #[must_use]
    pub fn intersection(mut self, other: &Self) -> Self {
        for (region, words) in self.regions.iter_mut().enumerate() {
            for (index, word) in words.iter_mut().enumerate() {
                *word &= other.word(region, index);
            }
        }
        self
    }

    /// The pages that are in one of them.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        if self.regions.len() < other.regions.len() {
            self.regions.resize_with(other.regions.len(), Vec::new);
        }
        for (words, others) in self.regions.iter_mut().zip(&other.regions) {
            if words.len() < others.len() {
                words.resize(others.len(), 0);
            }
            for (word, other) in words.iter_mut().zip(others) {
                *word |= other;
            }
        }
        self
    }

    /// 64 pages of a region, in the form of a dirty bitmap.
    pub(super) fn word(&self, region: usize, index: usize) -> u64 {
        self.regions.get(region).and_then(|words| words.get(index)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn runs() -> impl proptest::strategy::Strategy<Value = Vec<PageRun>> {
        let run = (0..3_usize, 0..200_usize, 1..70_usize);
        prop::collection::vec(
            run.prop_map(|(region, first, count)| PageRun { region, first, count }),
            0..12,
        )
    }

    fn pages(runs: &[PageRun]) -> BTreeSet<(usize, usize)> {
        let of = |run: &PageRun| {
            let region = run.region;
            (run.first..run.first + run.count).map(move |page| (region, page))
        };
        runs.iter().flat_map(of).collect()
    }

    fn listed(set: &PageSet) -> BTreeSet<(usize, usize)> {
        let mut all = BTreeSet::new();
        for region in 0..4 {
            for page in 0..400 {
                if set.word(region, page / WORD_BITS) >> (page % WORD_BITS) & 1 == 1 {
                    all.insert((region, page));
                }
            }
        }
        all
    }

    proptest! {
        #[test]
        fn sets_are_what_sets_are(one in runs(), other in runs()) {
            let (a, b) = (PageSet::of(&one), PageSet::of(&other));
            let (one, other) = (pages(&one), pages(&other));
            prop_assert_eq!(&listed(&a), &one);
            prop_assert_eq!(a.len(), one.len());
            prop_assert_eq!(a.is_empty(), one.is_empty());
            prop_assert_eq!(listed(&a.clone().union(&b)), &one | &other);
            prop_assert_eq!(listed(&a.intersection(&b)), &one & &other);
        }
    }
}
