//! A guest of a few dozen bytes that writes to as many pages as it is told to.
//!
//! It needs no kernel, no disk and no hardware virtualisation, so the host's share of a reset can
//! be measured and tested wherever there is a `/dev/kvm`.

use crate::arch::{self, small_elf};
use crate::boot::{KernelError, KernelImage};
use crate::memory::PAGE_BYTES;

/// Guest-physical address of the guest's code.
pub const ENTRY: u64 = 0x10_0000;
/// Guest-physical address of the first page the guest writes to. The others follow.
pub const FIRST_PAGE: u64 = 0x100_0000;
/// Most pages the guest can write to. Its page tables map the first GiB.
pub const MAX_PAGES: u32 = ((1 << 30) - FIRST_PAGE as u32) / PAGE_BYTES as u32;

/// A kernel that writes one byte to each of `pages` pages, writes to the checkpoint port and
/// halts. The machine's memory must hold these pages.
///
/// # Errors
///
/// `pages` is larger than [`MAX_PAGES`].
pub fn kernel(pages: u32) -> Result<KernelImage, KernelError> {
    if pages > MAX_PAGES {
        return Err(KernelError::DoesNotFit {
            end: FIRST_PAGE + u64::from(pages) * PAGE_BYTES as u64,
            limit: 1 << 30,
        });
    }
    let code = arch::page_writer(FIRST_PAGE as u32, pages);
    KernelImage::from_bytes(&small_elf::elf(ENTRY, &code, code.len() as u64))
}
