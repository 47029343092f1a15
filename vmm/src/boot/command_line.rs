//! The kernel command line.

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

/// Appends the parameters that tell the kernel of its devices.
///
/// # Errors
///
/// The line holds other bytes than printable ASCII, or is longer than the kernel keeps.
pub fn with_devices(base: &str, devices: &[String]) -> Result<String, CommandLineError> {
    if let Some((at, byte)) = base.bytes().enumerate().find(|(_, b)| !(0x20..0x7f).contains(b)) {
        return Err(CommandLineError::NotAscii { byte, at });
    }
    let mut line = base.trim().to_owned();
    for device in devices {
        line.push(' ');
        line.push_str(device);
    }
    if line.len() >= layout::COMMAND_LINE_MAX {
        return Err(CommandLineError::TooLong(line.len()));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::transport;

    #[test]
    fn devices_follow_the_base() {
        assert_eq!(
            with_devices("quiet ", &transport::announce(2)).unwrap(),
            "quiet virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6"
        );
    }

    #[test]
    fn what_the_kernel_would_cut_is_refused() {
        let longest = "x".repeat(layout::COMMAND_LINE_MAX - 1);
        assert!(with_devices(&longest, &[]).is_ok());
        assert_eq!(
            with_devices(&format!("{longest}x"), &[]),
            Err(CommandLineError::TooLong(layout::COMMAND_LINE_MAX))
        );
    }

    #[test]
    fn control_bytes_are_refused() {
        assert_eq!(with_devices("a\0b", &[]), Err(CommandLineError::NotAscii { byte: 0, at: 1 }));
    }
}
