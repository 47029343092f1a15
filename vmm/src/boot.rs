//! Kernel image and command line of a guest. What else the kernel finds at its first instruction is
//! the architecture's.

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
#[non_exhaustive]
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
