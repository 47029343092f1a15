use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::arch::small_elf::elf;
use crate::memory::allocate;

#[test]
fn a_segment_lands_where_it_asks() {
    let image = KernelImage::from_bytes(&elf(0x10_0000, b"kernel", 4096)).unwrap();
    let ram = allocate(64, crate::arch::layout::ram_ranges).unwrap();
    let loaded = image.load(&ram, 64 << 20).unwrap();
    assert_eq!(loaded.entry, 0x10_0000);
    let mut found = [0; 6];
    ram.read_slice(&mut found, GuestAddress(0x10_0000)).unwrap();
    assert_eq!(&found, b"kernel");
}

#[test]
fn empty_text_and_foreign_files_are_named() {
    assert!(matches!(KernelImage::from_bytes(&[]), Err(KernelError::Empty)));
    assert!(matches!(KernelImage::from_bytes(b"#!/bin/sh\n"), Err(KernelError::NotAKernel(_))));
    let mut arm = elf(0x10_0000, b"x", 1);
    arm[18] = 183;
    assert!(matches!(KernelImage::from_bytes(&arm), Err(KernelError::NotAKernel(_))));
}

#[test]
fn a_missing_file_is_named() {
    let error = KernelImage::open(Path::new("/nonexistent/vmlinux")).err().unwrap();
    assert!(error.to_string().contains("/nonexistent/vmlinux"));
}

#[test]
fn every_cut_of_an_elf_is_refused() {
    let whole = elf(0x10_0000, b"kernel", 6);
    assert!(KernelImage::from_bytes(&whole).is_ok());
    for length in 0..whole.len() {
        assert!(KernelImage::from_bytes(&whole[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn a_cut_bzimage_is_refused() {
    let mut bytes = vec![0_u8; 5 * 512 + 160];
    bytes[0x1f1] = 4;
    bytes[0x1f4] = 10;
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    bytes[0x211] = 1;
    bytes[0x214..0x218].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    bytes[0x236] = 1;
    assert!(KernelImage::from_bytes(&bytes).is_ok());
    bytes.pop();
    assert!(matches!(KernelImage::from_bytes(&bytes), Err(KernelError::Truncated { .. })));
}

#[test]
fn a_kernel_larger_than_the_guest_is_refused() {
    let image = KernelImage::from_bytes(&elf(0x10_0000, b"kernel", 128 << 20)).unwrap();
    let ram = allocate(64, crate::arch::layout::ram_ranges).unwrap();
    assert!(matches!(image.load(&ram, 64 << 20), Err(KernelError::DoesNotFit { .. })));
}

#[test]
fn a_segment_over_our_boot_structures_is_refused() {
    assert!(matches!(
        KernelImage::from_bytes(&elf(0x7000, b"kernel", 6)),
        Err(KernelError::NotAKernel(_))
    ));
}

proptest! {
    #[test]
    fn no_input_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..512), elf_magic: bool) {
        if elf_magic && bytes.len() >= 4 {
            bytes[..4].copy_from_slice(b"\x7fELF");
        }
        let _ = KernelImage::from_bytes(&bytes);
    }
}
