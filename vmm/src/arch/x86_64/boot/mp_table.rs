//! The table of the MultiProcessor Specification 1.4, in which a guest without ACPI finds its
//! processors and its interrupt routing.

use vm_memory::{Bytes, GuestAddress};

use super::super::layout;
use super::BootDataError;
use crate::memory::GuestRam;

/// Number of interrupt lines of the I/O APIC.
const IO_APIC_PINS: u8 = 24;
const ISA_BUS: u8 = 0;
const SPEC_REVISION: u8 = 4;
const LOCAL_APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;

/// Writes the floating pointer structure (section 4.1) and the configuration table (4.2) for
/// `vcpus` processors with APIC ids 0, 1, ….
pub fn write_mp_table(ram: &GuestRam, vcpus: u8) -> Result<(), BootDataError> {
    let table = mp_table(vcpus);
    ram.write_slice(&table, GuestAddress(layout::MP_TABLE))
        .map_err(BootDataError::on("the MP table"))
}

fn mp_table(vcpus: u8) -> Vec<u8> {
    let mut bytes = floating_pointer(layout::MP_TABLE as u32 + 16);
    bytes.extend(configuration_table(vcpus));
    bytes
}

fn floating_pointer(table_address: u32) -> Vec<u8> {
    let mut bytes = b"_MP_".to_vec();
    bytes.extend(table_address.to_le_bytes());
    // Length in 16-byte units, revision, checksum, five feature bytes: the table describes all.
    bytes.extend([1, SPEC_REVISION, 0, 0, 0, 0, 0, 0]);
    with_checksum(bytes, 10)
}

fn configuration_table(vcpus: u8) -> Vec<u8> {
    let io_apic_id = vcpus + 1;
    let mut entries = Vec::new();
    for id in 0..vcpus {
        // Processor entry (4.3.1): enabled, the first one is the bootstrap processor. Signature
        // and feature flags are those of a 486 with FPU and APIC: the kernel asks CPUID anyway.
        entries.extend([0, id, LOCAL_APIC_VERSION, if id == 0 { 3 } else { 1 }]);
        entries.extend(0x600_u32.to_le_bytes());
        entries.extend(0x201_u32.to_le_bytes());
        entries.extend([0; 8]);
    }
    // Bus entry (4.3.2).
    entries.extend([1, ISA_BUS]);
    entries.extend(b"ISA   ");
    // I/O APIC entry (4.3.3), enabled.
    entries.extend([2, io_apic_id, IO_APIC_VERSION, 1]);
    entries.extend(layout::IO_APIC.to_le_bytes());
    for pin in 0..IO_APIC_PINS {
        // I/O interrupt entry (4.3.4): vectored, polarity and trigger as the ISA bus has them.
        entries.extend([3, 0, 0, 0, ISA_BUS, pin, io_apic_id, pin]);
    }
    // Local interrupt entries (4.3.5): ExtINT on LINT0 of the first, NMI on LINT1 of all.
    entries.extend([4, 3, 0, 0, ISA_BUS, 0, 0, 0]);
    entries.extend([4, 1, 0, 0, ISA_BUS, 0, 0xff, 1]);
    let count = u16::from(vcpus) + u16::from(IO_APIC_PINS) + 4;

    let mut bytes = b"PCMP".to_vec();
    bytes.extend((44 + entries.len() as u16).to_le_bytes());
    bytes.extend([SPEC_REVISION, 0]);
    bytes.extend(b"BRAINSTMMICROVM     ");
    // No OEM table.
    bytes.extend([0; 6]);
    bytes.extend(count.to_le_bytes());
    bytes.extend(layout::LOCAL_APIC.to_le_bytes());
    // No extended table.
    bytes.extend([0; 4]);
    bytes.extend(entries);
    with_checksum(bytes, 7)
}

/// Sets the byte at `at` so that all bytes add up to zero.
fn with_checksum(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(byte) = bytes.get_mut(at) {
        *byte = 0_u8.wrapping_sub(sum);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn checksums_and_lengths_hold_for_every_processor_count() {
        for vcpus in 1..=8 {
            let bytes = mp_table(vcpus);
            let (pointer, table) = bytes.split_at(16);
            assert_eq!(sum(pointer), 0);
            assert_eq!(sum(table), 0);
            assert_eq!(&table[..4], b"PCMP");
            assert_eq!(u16::from_le_bytes([table[4], table[5]]) as usize, table.len());
            assert!(bytes.len() as u64 <= layout::MP_TABLE_MAX);
        }
    }

    #[test]
    fn the_entry_count_matches_the_entries() {
        let table = configuration_table(3);
        let (mut at, mut count) = (44, 0);
        while at < table.len() {
            at += if table[at] == 0 { 20 } else { 8 };
            count += 1;
        }
        assert_eq!(u16::from_le_bytes([table[34], table[35]]), count);
    }
}
