//! Ways to give dirty pages their golden content back.

use std::{io, ptr};

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::pages::Run;
use crate::arch;
use crate::memory::{GoldenMemory, GuestRam, PAGE_BYTES};

/// From this many pages on a copy passes by the caches. Up to 4 MiB it is better to find in them
/// what comes next: the comparison of what was put back, and the guest.
const STREAMING_FROM: usize = 1024;

/// How dirty pages get their golden content back. What differs is who pays: a copy costs the
/// reset, a dropped page costs the guest a fault and a copy when it writes there again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Strategy {
    /// Copies golden content over every dirty page. The machine keeps the pages it has written,
    /// so the next command does not fault on them.
    #[default]
    CopyBack,
    /// Drops the machine's own copy of every dirty page: it reads as golden again and its memory
    /// is given back.
    DropPrivate,
    /// Copies as long as the machine owns no more than this, and drops the rest.
    Hybrid {
        /// Most pages to copy in one reset.
        copy_pages: usize,
    },
    /// Copies all of golden memory over all of the guest's, whatever any log says: the oracle the
    /// others are measured against.
    FullCopy,
}

/// What was done with the dirty pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PagesDone {
    /// Pages copied.
    pub copied: usize,
    /// Pages dropped.
    pub dropped: usize,
}

impl Strategy {
    /// What a hybrid reset copies unless told otherwise: 16 MiB, about where copying starts to
    /// cost more than faulting in again on machines with a few MiB of cache.
    pub const DEFAULT_COPY_PAGES: usize = 4096;

    /// Its name in reports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::CopyBack => "copy-back",
            Self::DropPrivate => "drop-private",
            Self::Hybrid { .. } => "hybrid",
            Self::FullCopy => "full-copy",
        }
    }

    /// The strategy with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::CopyBack,
            Self::DropPrivate,
            Self::Hybrid { copy_pages: Self::DEFAULT_COPY_PAGES },
            Self::FullCopy,
        ]
        .into_iter()
        .find(|strategy| strategy.name() == name)
    }

    /// Gives the pages in `runs` their content back. `ram` must be mapped over `golden`, and
    /// nothing may run.
    pub(super) fn put_back(
        self,
        runs: &[Run],
        ram: &GuestRam,
        golden: &GoldenMemory,
    ) -> io::Result<PagesDone> {
        let mut done = PagesDone::default();
        if self == Self::FullCopy {
            for (region, shape) in golden.regions().iter().enumerate() {
                let count = shape.length / PAGE_BYTES;
                copy(&Run { region, first: 0, count }, ram, golden, true)?;
                done.copied += count;
            }
            return Ok(done);
        }
        let budget = match self {
            Self::CopyBack | Self::FullCopy => usize::MAX,
            Self::DropPrivate => 0,
            Self::Hybrid { copy_pages } => copy_pages,
        };
        let pages = runs.iter().map(|run| run.count).sum::<usize>().min(budget);
        let streaming = pages >= STREAMING_FROM;
        for run in runs {
            let copied = run.count.min(budget.saturating_sub(done.copied));
            if copied > 0 {
                copy(&Run { count: copied, ..*run }, ram, golden, streaming)?;
                done.copied += copied;
            }
            let rest = Run { first: run.first + copied, count: run.count - copied, ..*run };
            if rest.count > 0 {
                drop_private(&rest, ram, golden)?;
                done.dropped += rest.count;
            }
        }
        Ok(done)
    }
}

/// Where a run lies in the guest's RAM, and its golden content. The last page of a bitmap word may
/// lie beyond the region; KVM never sets such a bit.
fn place<'g>(
    run: &Run,
    ram: &GuestRam,
    golden: &'g GoldenMemory,
) -> io::Result<(*mut u8, &'g [u8])> {
    let outside = || io::Error::other("a dirty page outside guest memory");
    let shape = golden.regions().get(run.region).ok_or_else(outside)?;
    let content = golden.bytes(shape).get(run.bytes()).ok_or_else(outside)?;
    let region = ram.iter().nth(run.region).ok_or_else(outside)?;
    if region.len() as usize != shape.length {
        return Err(outside());
    }
    // SAFETY: the range was just found to lie inside golden memory's region, which is as long as
    // the mapping that this pointer stays in.
    let target = unsafe { region.as_ptr().add(run.bytes().start) };
    Ok((target, content))
}

fn copy(run: &Run, ram: &GuestRam, golden: &GoldenMemory, streaming: bool) -> io::Result<()> {
    let (target, content) = place(run, ram, golden)?;
    if streaming {
        // SAFETY: `target` is valid for `content.len()` bytes, as `place` has checked, both are
        // page aligned and whole pages; they are different mappings; nobody holds references into
        // guest memory.
        unsafe { arch::copy_streaming(content.as_ptr(), target, content.len()) };
    } else {
        // SAFETY: as above.
        unsafe { ptr::copy_nonoverlapping(content.as_ptr(), target, content.len()) };
    }
    Ok(())
}

fn drop_private(run: &Run, ram: &GuestRam, golden: &GoldenMemory) -> io::Result<()> {
    let (target, content) = place(run, ram, golden)?;
    // SAFETY: whole pages of a mapping that `ram` owns; they read as golden memory afterwards.
    let result = unsafe { libc::madvise(target.cast(), content.len(), libc::MADV_DONTNEED) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for name in ["copy-back", "drop-private", "hybrid", "full-copy"] {
            assert_eq!(Strategy::from_name(name).unwrap().name(), name);
        }
        assert_eq!(Strategy::from_name("fastest"), None);
    }
}
