//! A guest of a few dozen bytes that writes to as many pages as it is told to.
//!
//! It needs no kernel, no disk and no hardware virtualisation, so the host's share of a reset can
//! be measured and tested wherever there is a `/dev/kvm`.

use crate::boot::{KernelError, KernelImage, small_elf};

/// Where its code lies.
pub const ENTRY: u64 = 0x10_0000;
/// The first page it writes to; the others follow.
pub const FIRST_PAGE: u64 = 0x100_0000;
/// Most pages it can write to: its page tables map the first GiB.
pub const MAX_PAGES: u32 = ((1 << 30) - FIRST_PAGE as u32) / 4096;

/// A kernel that writes one byte to each of `pages` pages, writes to the checkpoint port and
/// halts. `pages` must be at most [`MAX_PAGES`], and the machine's memory must hold them.
pub fn kernel(pages: u32) -> Result<KernelImage, KernelError> {
    if pages > MAX_PAGES {
        return Err(KernelError::DoesNotFit {
            end: FIRST_PAGE + u64::from(pages) * 4096,
            limit: 1 << 30,
        });
    }
    let code = code(pages);
    KernelImage::from_bytes(&small_elf::elf(ENTRY, &code, code.len() as u64))
}

fn code(pages: u32) -> Vec<u8> {
    let mut code = vec![0x48, 0xc7, 0xc7]; // mov rdi, FIRST_PAGE
    code.extend((FIRST_PAGE as u32).to_le_bytes());
    code.extend([0x48, 0xc7, 0xc1]); // mov rcx, pages
    code.extend(pages.to_le_bytes());
    code.extend([0xb0, 0x01]); // mov al, 1
    code.extend([0x48, 0x85, 0xc9]); // test rcx, rcx
    code.extend([0x74, 0x0e]); // jz 2f
    code.extend([0x88, 0x07]); // 1: mov [rdi], al
    code.extend([0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00]); // add rdi, 4096
    code.extend([0x48, 0xff, 0xc9]); // dec rcx
    code.extend([0x75, 0xf2]); // jnz 1b
    code.extend([0xe6, 0x80]); // 2: out 0x80, al
    code.extend([0xfa, 0xf4, 0xeb, 0xfc]); // 3: cli; hlt; jmp 3b
    code
}
