//! Pages of guest memory that follow one another.

use std::ops::Range;

use crate::memory::PAGE_BYTES;

/// Consecutive pages of one memory region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRun {
    /// Index of the region, which is also its memory slot.
    pub region: usize,
    /// First page, counted from the start of the region.
    pub first: usize,
    /// Number of pages.
    pub count: usize,
}

impl PageRun {
    /// Byte offsets of the pages, counted from the start of the region.
    pub fn bytes(&self) -> Range<usize> {
        self.first * PAGE_BYTES..(self.first + self.count) * PAGE_BYTES
    }
}
