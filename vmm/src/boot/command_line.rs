//! The kernel command line.

use std::fmt::Write as _;

use thiserror::Error;

use crate::arch::layout;

/// Why a command line was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CommandLineError {
    /// The line is longer than the kernel keeps. The kernel would cut it without a word.
    #[error(
        "kernel command line of {0} bytes; the kernel keeps {max}: shorten it",
        max = layout::COMMAND_LINE_MAX - 1
    )]
    TooLong(usize),
    /// The line holds a byte that is not printable ASCII.
    #[error("kernel command line holds byte {byte:#04x} at {at}; use printable ASCII")]
    NotAscii {
        /// The byte.
        byte: u8,
        /// Position of the byte, from 0.
        at: usize,
    },
}

/// Appends one `virtio_mmio.device=` parameter for each of `devices` virtio-mmio devices.
///
/// # Errors
///
/// The line holds other bytes than printable ASCII, or is longer than the kernel keeps.
pub fn with_devices(base: &str, devices: u32) -> Result<String, CommandLineError> {
    if let Some((at, byte)) = base.bytes().enumerate().find(|(_, b)| !(0x20..0x7f).contains(b)) {
        return Err(CommandLineError::NotAscii { byte, at });
    }
    let mut line = base.trim().to_owned();
    for slot in 0..devices {
        let address = layout::VIRTIO_MMIO + u64::from(slot) * layout::VIRTIO_MMIO_STRIDE;
        let irq = layout::VIRTIO_MMIO_IRQ + slot;
        // Writing to a String cannot fail.
        let _ = write!(line, " virtio_mmio.device=4K@{address:#x}:{irq}");
    }
    if line.len() >= layout::COMMAND_LINE_MAX {
        return Err(CommandLineError::TooLong(line.len()));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_follow_the_base() {
        assert_eq!(
            with_devices("quiet ", 2).unwrap(),
            "quiet virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6"
        );
    }

    #[test]
    fn what_the_kernel_would_cut_is_refused() {
        let longest = "x".repeat(layout::COMMAND_LINE_MAX - 1);
        assert!(with_devices(&longest, 0).is_ok());
        assert_eq!(
            with_devices(&format!("{longest}x"), 0),
            Err(CommandLineError::TooLong(layout::COMMAND_LINE_MAX))
        );
    }

    #[test]
    fn control_bytes_are_refused() {
        assert_eq!(with_devices("a\0b", 0), Err(CommandLineError::NotAscii { byte: 0, at: 1 }));
    }
}
