//! Getting a kernel to its first instruction: image, boot parameters, MP table, CPU entry state.
//!
//! Both image forms enter through the 64-bit Linux boot protocol: long mode, an identity map of
//! the first GiB, `boot_params` in RSI. An ELF `vmlinux` needs no decompression and starts
//! fastest.

mod command_line;
mod kernel;

#[cfg(test)]
pub(crate) use crate::arch::small_elf;
pub use command_line::CommandLineError;
pub(crate) use command_line::with_devices;
pub use kernel::{KernelError, KernelImage};

use thiserror::Error;

pub use crate::arch::BootDataError;

/// Why a guest could not be prepared for its first instruction.
#[derive(Debug, Error)]
pub enum BootError {
    /// The kernel image is unusable or does not fit.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The command line is unusable.
    #[error(transparent)]
    CommandLine(#[from] CommandLineError),
    /// A boot structure could not be written.
    #[error(transparent)]
    Write(#[from] BootDataError),
}
