//! Which pages of a private mapping are copies of its own, as the host's page tables have it.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, mem};

use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;

use super::PAGE_BYTES;

/// `struct pm_scan_arg` (Linux 6.7, Documentation/admin-guide/mm/pagemap.rst).
#[repr(C)]
#[derive(Default)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

ioctl_iowr_nr!(PAGEMAP_SCAN, 'f' as u32, 16, ScanArguments);

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;

/// Bits of an entry of `/proc/self/pagemap` with the same meanings.
const ENTRY_FILE: u64 = 1 << 61;
const ENTRY_SWAPPED: u64 = 1 << 62;
const ENTRY_PRESENT: u64 = 1 << 63;

/// Ranges that one call can return.
const REGIONS: usize = 128;
/// Entries read in one go where there is no `PAGEMAP_SCAN`.
const ENTRIES: usize = 4096;

/// Opens the page tables of this process, for the checks of every machine that it makes from now on.
/// Call it before the process gives up rights: an ordinary user cannot open them once the process is
/// not dumpable (`PR_SET_DUMPABLE` in prctl(2)), and reads through the open descriptor all the same.
/// Without them, [`IntegrityReport::page_tables`](crate::IntegrityReport::page_tables) is false.
///
/// # Errors
///
/// `/proc/self/pagemap` cannot be opened.
pub fn open_page_tables() -> io::Result<()> {
    of_this_process().map(drop)
}

/// The descriptor that all machines of this process share. A child process opens its own.
fn of_this_process() -> io::Result<Arc<File>> {
    static SHARED: Mutex<Option<(u32, Arc<File>)>> = Mutex::new(None);
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    match &*shared {
        Some((opener, file)) if *opener == process => Ok(Arc::clone(file)),
        _ => {
            let file = Arc::new(File::open("/proc/self/pagemap")?);
            *shared = Some((process, Arc::clone(&file)));
            Ok(file)
        }
    }
}

/// The page tables of this process. They are not KVM's, so they are a second opinion on what was
/// written: a page that a private mapping has a copy of was written, by the guest or by the host.
#[derive(Debug)]
pub struct PageTable {
    file: Arc<File>,
    searches: bool,
    regions: Vec<Region>,
    entries: Vec<u8>,
}

impl PageTable {
    /// Opens them. Finds out whether the kernel can search them; if not, they are read entry by
    /// entry.
    pub fn open() -> io::Result<Self> {
        let file = of_this_process()?;
        let mut table = Self { file, searches: true, regions: Vec::new(), entries: Vec::new() };
        let page = [0_u8; 1];
        let address = page.as_ptr() as usize / PAGE_BYTES * PAGE_BYTES;
        table.searches = table.search(address, 0..1, &mut Vec::new()).is_ok();
        Ok(table)
    }

    /// As on a kernel that does not search.
    #[cfg(test)]
    #[must_use]
    pub fn without_search(self) -> Self {
        Self { searches: false, ..self }
    }

    /// True where the kernel searches for us (`PAGEMAP_SCAN`).
    pub fn searches(&self) -> bool {
        self.searches
    }

    /// Adds to `found` those of `pages`, counted from `address`, that the private mapping there has
    /// copies of, in memory or swapped out, ascending. The content of the mapping is not touched.
    pub fn copies(
        &mut self,
        address: usize,
        pages: Range<usize>,
        found: &mut Vec<Range<usize>>,
    ) -> io::Result<()> {
        if pages.is_empty() {
            Ok(())
        } else if self.searches {
            self.search(address, pages, found)
        } else {
            self.read_entries(address, pages, found)
        }
    }

    fn search(
        &mut self,
        address: usize,
        pages: Range<usize>,
        found: &mut Vec<Range<usize>>,
    ) -> io::Result<()> {
        self.regions.resize(REGIONS, Region::default());
        let end = (address + pages.end * PAGE_BYTES) as u64;
        let mut arguments = ScanArguments {
            size: mem::size_of::<ScanArguments>() as u64,
            start: (address + pages.start * PAGE_BYTES) as u64,
            end,
            vec: self.regions.as_mut_ptr() as u64,
            vec_len: self.regions.len() as u64,
            category_inverted: PAGE_IS_FILE,
            category_mask: PAGE_IS_FILE,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            ..ScanArguments::default()
        };
        while arguments.start < end {
            // SAFETY: the kernel writes at most `vec_len` regions to `vec`, which has that many,
            // and `walk_end` in the arguments.
            let count = unsafe { ioctl_with_mut_ref(&self.file, PAGEMAP_SCAN(), &mut arguments) };
            let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
            for region in self.regions.iter().take(count) {
                let page = |at: u64| (at as usize).saturating_sub(address) / PAGE_BYTES;
                add(found, page(region.start)..page(region.end));
            }
            if arguments.walk_end <= arguments.start {
                return Err(io::Error::other(
                    "the kernel's search of the page tables stands still",
                ));
            }
            arguments.start = arguments.walk_end;
        }
        Ok(())
    }

    fn read_entries(
        &mut self,
        address: usize,
        pages: Range<usize>,
        found: &mut Vec<Range<usize>>,
    ) -> io::Result<()> {
        const ENTRY_BYTES: usize = mem::size_of::<u64>();
        let mut first = pages.start;
        while first < pages.end {
            let count = ENTRIES.min(pages.end - first);
            self.entries.resize(count * ENTRY_BYTES, 0);
            let at = (address / PAGE_BYTES + first) * ENTRY_BYTES;
            self.file.read_exact_at(&mut self.entries, at as u64)?;
            for (page, entry) in self.entries.as_chunks::<ENTRY_BYTES>().0.iter().enumerate() {
                let entry = u64::from_ne_bytes(*entry);
                if entry & ENTRY_FILE == 0 && entry & (ENTRY_PRESENT | ENTRY_SWAPPED) != 0 {
                    add(found, first + page..first + page + 1);
                }
            }
            first += count;
        }
        Ok(())
    }
}

fn add(found: &mut Vec<Range<usize>>, pages: Range<usize>) {
    match found.last_mut() {
        Some(last) if last.end == pages.start => last.end = pages.end,
        _ => found.push(pages),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::memory::{PrivateMapping, SealedMemory};

    const PAGES: usize = 5000;

    /// A kernel that searches and one that does not give the same answers.
    fn tables() -> Vec<PageTable> {
        let without = PageTable::open().unwrap().without_search();
        let table = PageTable::open().unwrap();
        if table.searches { vec![table, without] } else { vec![without] }
    }

    #[test]
    fn pages_that_were_written_are_copies_and_no_others() {
        let content = vec![1; PAGES * PAGE_BYTES - 512];
        let sealed =
            SealedMemory::create("test", content.len(), |mut file| file.write_all(&content));
        let mut mapping = PrivateMapping::of(&sealed.unwrap()).unwrap();
        let address = mapping.bytes().as_ptr() as usize;
        for mut table in tables() {
            let mut copies = |mapping: &PrivateMapping| {
                let mut found = Vec::new();
                // In one go and in two are the same.
                let middle = mapping.bytes().len() / PAGE_BYTES / 3;
                table.copies(address, 0..middle, &mut found).unwrap();
                table.copies(address, middle..PAGES, &mut found).unwrap();
                table.copies(address, 7..7, &mut found).unwrap();
                found
            };
            assert_eq!(copies(&mapping), []);
            assert!(mapping.bytes().iter().all(|byte| *byte == 1));
            assert_eq!(copies(&mapping), [], "reading makes no copies");
            for page in [0, 7, 8, 4095, 4096, PAGES - 1] {
                mapping.bytes_mut()[page * PAGE_BYTES] = 1;
            }
            assert_eq!(copies(&mapping), [0..1, 7..9, 4095..4097, PAGES - 1..PAGES]);
            mapping.revert(0..8 * PAGE_BYTES).unwrap();
            assert_eq!(copies(&mapping), [8..9, 4095..4097, PAGES - 1..PAGES]);
            // More ranges than one call returns.
            for page in (0..PAGES).step_by(2) {
                mapping.bytes_mut()[page * PAGE_BYTES] = 1;
            }
            assert!(copies(&mapping).len() > 2 * REGIONS);
            mapping.revert(0..PAGES * PAGE_BYTES).unwrap();
        }
    }
}
