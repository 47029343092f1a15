//! The processor state the 64-bit boot protocol asks for: long mode, paging on, an identity map.

use kvm_bindings::{kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress};

use super::super::layout;
use super::BootDataError;
use crate::memory::GuestRam;

/// Flat 64-bit code segment, selector 0x10 (`__BOOT_CS`).
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
/// Flat data segment, selector 0x18 (`__BOOT_DS`).
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;
/// 64-bit task state segment, selector 0x20: VMX refuses to enter a guest without one.
const TASK_DESCRIPTOR: u64 = 0x008f_8b00_0000_ffff;
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;

/// Flags of a page table's entry: present and writable.
const TABLE_FLAGS: u64 = 0x3;
/// Flags of an entry for a 2 MiB page: present, writable, large.
const LARGE_PAGE_FLAGS: u64 = 0x83;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Writes the descriptor table and page tables that [`enter_long_mode`] points at.
///
/// # Errors
///
/// They do not lie in guest memory.
pub fn write_tables(ram: &GuestRam) -> Result<(), BootDataError> {
    for (index, descriptor) in
        [0, 0, CODE_DESCRIPTOR, DATA_DESCRIPTOR, TASK_DESCRIPTOR, 0].into_iter().enumerate()
    {
        write(ram, layout::BOOT_GDT + 8 * index as u64, descriptor)?;
    }
    write(ram, layout::PML4, layout::PDPT | TABLE_FLAGS)?;
    write(ram, layout::PDPT, layout::PAGE_DIRECTORY | TABLE_FLAGS)?;
    for page in 0..512 {
        write(ram, layout::PAGE_DIRECTORY + 8 * page, (page << 21) | LARGE_PAGE_FLAGS)?;
    }
    Ok(())
}

fn write(ram: &GuestRam, address: u64, value: u64) -> Result<(), BootDataError> {
    ram.write_obj(value.to_le(), GuestAddress(address))
        .map_err(BootDataError::on("boot page tables"))
}

/// Sets special registers to long mode over the tables that [`write_tables`] wrote.
pub fn enter_long_mode(sregs: &mut kvm_sregs) {
    let data = segment(DATA_SELECTOR, 3, false);
    sregs.cs = segment(CODE_SELECTOR, 11, true);
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.tr = kvm_segment { s: 0, type_: 11, ..segment(TASK_SELECTOR, 11, true) };
    sregs.gdt.base = layout::BOOT_GDT;
    sregs.gdt.limit = 6 * 8 - 1;
    sregs.idt.base = layout::BOOT_IDT;
    sregs.idt.limit = 0;
    sregs.cr3 = layout::PML4;
    sregs.cr4 |= CR4_PAE;
    sregs.cr0 |= CR0_PE | CR0_ET | CR0_PG;
    sregs.efer |= EFER_LME | EFER_LMA;
}

fn segment(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}
