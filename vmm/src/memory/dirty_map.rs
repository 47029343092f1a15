//! Which pages the VMM itself has written.

use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};

/// Bytes of one page.
pub const PAGE_BYTES: usize = 4096;
/// Bits in one word of a dirty bitmap.
pub const WORD_BITS: usize = 64;

/// One bit per page of a memory region, and above it one bit per 64 pages: finding a handful of
/// dirty pages in gigabytes takes a handful of steps.
#[derive(Debug, Default)]
pub struct DirtyMap {
    words: Vec<AtomicU64>,
    summary: Vec<AtomicU64>,
}

impl DirtyMap {
    /// Adds every dirty page to `pages` (bit 0 of word 0 is the first page) and forgets it. No thread
    /// may write to the memory meanwhile.
    pub fn drain_into(&self, pages: &mut [u64]) {
        self.for_each_word(|index, word| {
            if let Some(target) = pages.get_mut(index) {
                *target |= word.swap(0, Ordering::Relaxed);
            }
        });
    }

    /// Calls `visit` with the number of every dirty page, ascending, and forgets them. No thread may
    /// write to the memory meanwhile.
    pub fn drain(&self, mut visit: impl FnMut(usize)) {
        self.for_each_word(|index, word| {
            let mut bits = word.swap(0, Ordering::Relaxed);
            while bits != 0 {
                visit(index * WORD_BITS + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        });
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.for_each_word(|_, word| word.store(0, Ordering::Relaxed));
    }

    fn for_each_word(&self, mut visit: impl FnMut(usize, &AtomicU64)) {
        for (group, summary) in self.summary.iter().enumerate() {
            if summary.load(Ordering::Acquire) == 0 {
                continue;
            }
            let mut bits = summary.swap(0, Ordering::AcqRel);
            while bits != 0 {
                let index = group * WORD_BITS + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                if let Some(word) = self.words.get(index) {
                    visit(index, word);
                }
            }
        }
    }

    fn mark_page(&self, page: usize) {
        let index = page / WORD_BITS;
        let bit = 1 << (page % WORD_BITS);
        let (Some(word), Some(summary)) =
            (self.words.get(index), self.summary.get(index / WORD_BITS))
        else {
            return;
        };
        // Most writes hit a page that is marked already, and sharing a cache line is cheaper than
        // owning it.
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
            summary.fetch_or(1 << (index % WORD_BITS), Ordering::Release);
        }
    }
}

/// The part of a map that belongs to a part of its region.
#[derive(Debug, Clone, Copy)]
pub struct DirtySlice<'m> {
    map: &'m DirtyMap,
    base: usize,
}

impl<'m> DirtySlice<'m> {
    /// The whole map.
    pub fn map(&self) -> &'m DirtyMap {
        self.map
    }
}

impl WithBitmapSlice<'_> for DirtySlice<'_> {
    type S = Self;
}

impl BitmapSlice for DirtySlice<'_> {}

impl Bitmap for DirtySlice<'_> {
    fn mark_dirty(&self, offset: usize, length: usize) {
        self.map.mark_dirty(self.base.saturating_add(offset), length);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.map.dirty_at(self.base.saturating_add(offset))
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { map: self.map, base: self.base.saturating_add(offset) }
    }
}

impl<'a> WithBitmapSlice<'a> for DirtyMap {
    type S = DirtySlice<'a>;
}

impl Bitmap for DirtyMap {
    fn mark_dirty(&self, offset: usize, length: usize) {
        if let Some(last) = length.checked_sub(1) {
            for page in offset / PAGE_BYTES..=offset.saturating_add(last) / PAGE_BYTES {
                self.mark_page(page);
            }
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = offset / PAGE_BYTES;
        self.words
            .get(page / WORD_BITS)
            .is_some_and(|word| word.load(Ordering::Relaxed) >> (page % WORD_BITS) & 1 == 1)
    }

    fn slice_at(&self, offset: usize) -> DirtySlice<'_> {
        DirtySlice { map: self, base: offset }
    }
}

impl NewBitmap for DirtyMap {
    fn with_len(bytes: usize) -> Self {
        let words = bytes.div_ceil(PAGE_BYTES).div_ceil(WORD_BITS);
        let zeros = |count| std::iter::repeat_with(AtomicU64::default).take(count).collect();
        Self { words: zeros(words), summary: zeros(words.div_ceil(WORD_BITS)) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const PAGES: usize = 10_000;

    proptest! {
        #[test]
        fn what_was_marked_is_drained_once(
            writes in prop::collection::vec((0..PAGES * PAGE_BYTES, 0..3 * PAGE_BYTES), 0..50),
        ) {
            let map = DirtyMap::with_len(PAGES * PAGE_BYTES);
            let mut expected = BTreeSet::new();
            for (offset, length) in writes {
                map.mark_dirty(offset, length);
                if length > 0 {
                    let last = (offset + length - 1) / PAGE_BYTES;
                    expected.extend((offset / PAGE_BYTES..=last).filter(|page| *page < PAGES + 48));
                }
            }
            for page in &expected {
                prop_assert!(*page >= PAGES || map.dirty_at(page * PAGE_BYTES));
            }
            let mut pages = vec![0; PAGES.div_ceil(64)];
            map.drain_into(&mut pages);
            let found: BTreeSet<usize> =
                (0..pages.len() * 64).filter(|page| pages[page / 64] >> (page % 64) & 1 == 1).collect();
            expected.retain(|page| *page < pages.len() * 64);
            prop_assert_eq!(found, expected);
            let mut again = vec![0; PAGES.div_ceil(64)];
            map.drain_into(&mut again);
            prop_assert!(again.iter().all(|word| *word == 0));
        }
    }

    #[test]
    fn writes_past_the_end_are_ignored() {
        let map = DirtyMap::with_len(PAGE_BYTES);
        map.mark_dirty(usize::MAX - 1, 100);
        map.mark_dirty(1 << 40, 1);
        let mut pages = [0];
        map.drain_into(&mut pages);
        assert_eq!(pages, [0]);
    }
}
