//! What the guest's first instruction finds: boot parameters, MP table, page tables, entry state.
//!
//! Both image forms enter through the 64-bit Linux boot protocol: long mode, an identity map of the
//! first GiB, `boot_params` in RSI. An ELF `vmlinux` needs no decompression and starts fastest.

mod image;
mod long_mode;
mod mp_table;
mod params;
pub mod small_elf;

pub use image::{CheckedImage, ImageError, LoadedKernel};
pub(super) use long_mode::enter_long_mode;
pub use long_mode::write_tables;

use linux_loader::loader::bootparam::setup_header;
use thiserror::Error;

use crate::memory::GuestRam;

/// The bzImage's own header, which its kernel wants back in `boot_params`.
pub type SetupHeader = setup_header;

/// A boot structure could not be written into guest memory.
#[derive(Debug, Error)]
#[error("cannot write {what} into guest memory: {reason}")]
#[non_exhaustive]
pub struct BootDataError {
    /// The structure.
    pub what: &'static str,
    /// The failed access.
    pub reason: String,
}

impl BootDataError {
    fn on(what: &'static str) -> impl FnOnce(vm_memory::GuestMemoryError) -> Self {
        move |e| Self { what, reason: e.to_string() }
    }
}

/// Writes everything that a kernel reads at entry into `ram` of `memory_bytes` bytes, for a guest
/// with `vcpus` processors. `setup` is the bzImage's own header; an ELF image has none.
///
/// # Errors
///
/// A structure does not lie in guest memory.
pub fn write_boot_data(
    ram: &GuestRam,
    memory_bytes: u64,
    vcpus: u8,
    command_line: &str,
    setup: Option<SetupHeader>,
) -> Result<(), BootDataError> {
    params::write_boot_params(ram, memory_bytes, command_line, setup)?;
    long_mode::write_tables(ram)?;
    mp_table::write_mp_table(ram, vcpus)
}
