//! The guest-physical address map, and the ports of the platform.
//!
//! ```text
//! 0x0000_0500  GDT, IDT                       boot only
//! 0x0000_7000  boot_params ("zero page")      Linux boot protocol, 64-bit
//! 0x0000_9000  PML4, PDPT, PD                 identity map of the first GiB, boot only
//! 0x0002_0000  kernel command line
//! 0x0009_fc00  MP table, reserved in e820
//! 0x0010_0000  RAM, kernel at the addresses its ELF headers ask for
//! 0xc000_0000  hole: virtio-mmio at 0xd000_0000, IOAPIC, local APIC, KVM's own pages
//! 0x1_0000_0000  RAM above 3 GiB
//! ```

use std::ops::RangeInclusive;

/// Global descriptor table used until the kernel loads its own.
pub const BOOT_GDT: u64 = 0x500;
/// Empty interrupt descriptor table: any exception before the kernel loads its own is fatal.
pub const BOOT_IDT: u64 = 0x520;
/// `boot_params`, handed to the kernel in RSI.
pub const ZERO_PAGE: u64 = 0x7000;
/// Stack pointer at entry. The kernel switches to a stack of its own at once.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Top-level page table; the PDPT and PD follow in the next two pages.
pub const PML4: u64 = 0x9000;
/// Page directory pointer table.
pub const PDPT: u64 = 0xa000;
/// Page directory: 512 entries of 2 MiB.
pub const PAGE_DIRECTORY: u64 = 0xb000;
/// Kernel command line, NUL terminated.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Longest command line the kernel keeps, terminator included (`COMMAND_LINE_SIZE` on x86).
pub const COMMAND_LINE_MAX: usize = 2048;
/// MP table: the last KiB of base memory, one of the places the kernel searches.
pub const MP_TABLE: u64 = 0x9_fc00;
/// Bytes available for the MP table.
pub const MP_TABLE_MAX: u64 = 0x400;
/// First byte of memory above the legacy hole.
pub const HIGH_MEMORY: u64 = 0x10_0000;
/// First byte of the hole for devices.
pub const HOLE_START: u64 = 0xc000_0000;
/// First byte after the hole.
pub const HOLE_END: u64 = 0x1_0000_0000;
/// Register window of the first virtio-mmio device.
pub const VIRTIO_MMIO: u64 = 0xd000_0000;
/// Size of one virtio-mmio register window.
pub const VIRTIO_MMIO_STRIDE: u64 = 0x1000;
/// Interrupt line of the first virtio-mmio device. The following devices use the following lines.
pub const VIRTIO_MMIO_IRQ: u32 = 5;
/// Address of the I/O APIC's registers.
pub const IO_APIC: u32 = 0xfec0_0000;
/// Address of the local APIC's registers.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// One page KVM uses for real-mode emulation on some processors.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages KVM uses for its task state segment on some processors.
pub const KVM_TSS: usize = 0xfffb_d000;

/// Ports of COM1, the first serial port.
pub const COM1_PORTS: RangeInclusive<u16> = 0x3f8..=0x3ff;
/// Interrupt line of COM1.
pub const COM1_IRQ: u32 = 4;
/// Port to which a guest says how far it has come, as firmware does with POST codes.
pub const CHECKPOINT_PORT: u16 = 0x80;

/// Guest-physical RAM ranges, as `(start, length)` in bytes, for a memory size in bytes: one
/// range up to 3 GiB, two above, because the hole for devices lies below 4 GiB.
pub fn ram_ranges(bytes: u64) -> Vec<(u64, u64)> {
    if bytes <= HOLE_START {
        vec![(0, bytes)]
    } else {
        vec![(0, HOLE_START), (HOLE_END, bytes - HOLE_START)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_memory_is_one_range() {
        assert_eq!(ram_ranges(128 << 20), [(0, 128 << 20)]);
        assert_eq!(ram_ranges(HOLE_START), [(0, HOLE_START)]);
    }

    #[test]
    fn memory_above_three_gib_goes_around_the_hole() {
        assert_eq!(ram_ranges(4 << 30), [(0, HOLE_START), (HOLE_END, 1 << 30)]);
    }

    #[test]
    fn the_mp_table_ends_where_base_memory_ends() {
        assert_eq!(MP_TABLE + MP_TABLE_MAX, 0xa_0000);
    }
}
