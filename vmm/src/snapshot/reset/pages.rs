//! Dirty pages get their golden content back.

use std::{io, ptr};

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::arch;
use crate::kernel_call;
use crate::memory::{GoldenMemory, GuestRam, PAGE_BYTES};
use crate::snapshot::{PageRun, Strategy};

/// From this many pages on a copy passes by the caches. Up to 4 MiB it is better to find in them
/// what comes next: the comparison of what was restored, and the guest.
const STREAMING_FROM: usize = 1024;

/// What a reset did with dirty pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PagesRestored {
    /// Number of pages that were copied.
    pub copied: usize,
    /// Number of pages whose private copy was dropped.
    pub dropped: usize,
}

/// Restores the content of the pages in `runs`. `ram` must be mapped over `golden`, and nothing may
/// run.
///
/// # Errors
///
/// A run lies outside guest memory, or the kernel refuses to drop a page.
pub fn restore_pages(
    strategy: Strategy,
    runs: &[PageRun],
    ram: &GuestRam,
    golden: &GoldenMemory,
) -> io::Result<PagesRestored> {
    let mut done = PagesRestored::default();
    if strategy == Strategy::FullCopy {
        for (region, shape) in golden.regions().iter().enumerate() {
            let count = shape.length / PAGE_BYTES;
            copy(&PageRun { region, first: 0, count }, ram, golden, true)?;
            done.copied += count;
        }
        return Ok(done);
    }
    let budget = match strategy {
        Strategy::CopyBack | Strategy::FullCopy => usize::MAX,
        Strategy::DropPrivate => 0,
        Strategy::Hybrid { copy_pages } => copy_pages,
    };
    let pages = runs.iter().map(|run| run.count).sum::<usize>().min(budget);
    let streaming = pages >= STREAMING_FROM;
    for run in runs {
        let copied = run.count.min(budget.saturating_sub(done.copied));
        if copied > 0 {
            copy(&PageRun { count: copied, ..*run }, ram, golden, streaming)?;
            done.copied += copied;
        }
        let rest = PageRun { first: run.first + copied, count: run.count - copied, ..*run };
        if rest.count > 0 {
            drop_private(&rest, ram, golden)?;
            done.dropped += rest.count;
        }
    }
    Ok(done)
}

/// Returns the host address of a run in the guest's RAM, and its golden content. The last page of a
/// bitmap word may lie beyond the region; KVM never sets such a bit.
fn locate<'g>(
    run: &PageRun,
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

fn copy(run: &PageRun, ram: &GuestRam, golden: &GoldenMemory, streaming: bool) -> io::Result<()> {
    let (target, content) = locate(run, ram, golden)?;
    if streaming {
        // SAFETY: `target` is valid for `content.len()` bytes, as `locate` has checked, both are
        // page aligned and whole pages; they are different mappings; no reference into guest memory
        // exists.
        unsafe { arch::copy_streaming(content.as_ptr(), target, content.len()) };
    } else {
        // SAFETY: as above.
        unsafe { ptr::copy_nonoverlapping(content.as_ptr(), target, content.len()) };
    }
    Ok(())
}

fn drop_private(run: &PageRun, ram: &GuestRam, golden: &GoldenMemory) -> io::Result<()> {
    let (target, content) = locate(run, ram, golden)?;
    // SAFETY: whole pages of a mapping that `ram` owns; they read as golden memory afterwards.
    let drop = || unsafe { libc::madvise(target.cast(), content.len(), libc::MADV_DONTNEED) };
    let result = kernel_call::timed("madvise(MADV_DONTNEED)", drop);
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
