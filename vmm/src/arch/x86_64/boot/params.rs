//! `boot_params`: what the kernel is told about its memory and command line.

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Bytes, GuestAddress};

use super::super::layout;
use super::BootDataError;
use crate::memory::GuestRam;

const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// Type of a boot loader that is not in the kernel's list ("undefined").
const LOADER_TYPE: u8 = 0xff;
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// Writes the command line and `boot_params` (Linux boot protocol, 64-bit section).
/// `setup` is the bzImage's own header; an ELF image has none.
pub fn write_boot_params(
    ram: &GuestRam,
    memory_bytes: u64,
    command_line: &str,
    setup: Option<setup_header>,
) -> Result<(), BootDataError> {
    let mut line = command_line.as_bytes().to_vec();
    line.push(0);
    ram.write_slice(&line, GuestAddress(layout::COMMAND_LINE))
        .map_err(BootDataError::on("the command line"))?;

    let mut params = boot_params { hdr: setup.unwrap_or_default(), ..Default::default() };
    params.hdr.boot_flag = BOOT_FLAG;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.type_of_loader = LOADER_TYPE;
    params.hdr.cmd_line_ptr = layout::COMMAND_LINE as u32;
    params.hdr.cmdline_size = line.len() as u32;
    let map = e820(memory_bytes);
    params.e820_entries = map.len() as u8;
    for (slot, entry) in params.e820_table.iter_mut().zip(map) {
        *slot = entry;
    }
    LinuxBootConfigurator::write_bootparams(
        &BootParams::new(&params, GuestAddress(layout::ZERO_PAGE)),
        ram,
    )
    .map_err(|e| BootDataError { what: "boot_params", reason: e.to_string() })
}

fn e820(memory_bytes: u64) -> Vec<boot_e820_entry> {
    let entry = |addr, size, kind| boot_e820_entry { addr, size, r#type: kind };
    let mut map = vec![
        entry(0, layout::MP_TABLE, E820_RAM),
        entry(layout::MP_TABLE, layout::MP_TABLE_MAX, E820_RESERVED),
    ];
    for (start, length) in layout::ram_ranges(memory_bytes) {
        let above = start.max(layout::HIGH_MEMORY);
        map.push(entry(above, start + length - above, E820_RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_covers_all_ram_but_the_legacy_hole() {
        for mib in [64_u64, 3072, 4096, 8192] {
            let bytes = mib << 20;
            let usable: u64 =
                e820(bytes).iter().filter(|e| { e.r#type } == E820_RAM).map(|e| e.size).sum();
            assert_eq!(usable, bytes - (layout::HIGH_MEMORY - layout::MP_TABLE));
        }
    }
}
