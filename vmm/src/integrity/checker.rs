//! What one machine's checks remember from one to the next.

use std::io;
use std::ops::Range;

use super::scrub_cursor::ScrubCursor;
use crate::memory::PageTable;

/// One machine's checks: where each is on its way round, and room to work in.
#[derive(Debug)]
pub struct Checker {
    /// Absent where this process cannot read it: then content alone decides, in the course of a round,
    /// and reports say so.
    table: Option<PageTable>,
    pub(super) disk: ScrubCursor,
    pub(super) memory: ScrubCursor,
    /// Blocks of the disk that are mapped because they were checked last.
    pub(super) mapped: Vec<Range<usize>>,
    /// Where to go on in the page tables of the disk, where they are read entry by entry.
    pub(super) next_entry: usize,
    /// Where to go on among pages that no log named, when there are too many for one check.
    pub(super) next_copy: usize,
    /// Reused.
    pub(super) copies: Vec<Range<usize>>,
}

impl Checker {
    /// For one machine of this process.
    pub fn new() -> Self {
        Self {
            table: PageTable::open().ok(),
            disk: ScrubCursor::default(),
            memory: ScrubCursor::default(),
            mapped: Vec::new(),
            next_entry: 0,
            next_copy: 0,
            copies: Vec::new(),
        }
    }

    /// Whether the page tables can be read.
    pub fn reads_page_tables(&self) -> bool {
        self.table.is_some()
    }

    /// As in a process that cannot read its page tables.
    #[cfg(test)]
    pub fn forget_page_tables(&mut self) {
        self.table = None;
    }

    /// True where the kernel searches page tables for us, which costs what is mapped and not what
    /// could be.
    pub(super) fn searches(&self) -> bool {
        self.table.as_ref().is_some_and(PageTable::searches)
    }

    /// As on a kernel that does not search.
    #[cfg(test)]
    pub(super) fn read_entries_only(&mut self) {
        self.table = PageTable::open().ok().map(PageTable::without_search);
    }

    /// Looks up of which of these pages this private mapping has copies, and adds them to
    /// `self.copies`.
    pub(super) fn find_copies(&mut self, mapping: &[u8], pages: Range<usize>) -> io::Result<()> {
        match &mut self.table {
            Some(table) => table.copies(mapping.as_ptr() as usize, pages, &mut self.copies),
            None => Ok(()),
        }
    }
}
