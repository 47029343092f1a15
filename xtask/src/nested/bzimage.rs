//! Takes the compressed kernel out of a bzImage.
//!
//! Booting the uncompressed ELF through its PVH entry spares an emulated processor the
//! decompression, which alone would take longer than the rest of the boot.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Offsets from the kernel's `Documentation/arch/x86/boot.rst`, "The Real-Mode Kernel Header".
const SETUP_SECTS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const PROTOCOL_VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// First protocol version with the two payload fields.
const FIRST_WITH_PAYLOAD: u16 = 0x0208;
/// Number of setup sectors meant by a 0 in the header.
const DEFAULT_SETUP_SECTS: usize = 4;
const SECTOR: usize = 512;
/// The kernel's build appends the uncompressed size to the stream, for its own decompressor.
const SIZE_TRAILER: usize = 4;
const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// The compressed stream inside a bzImage, without the trailing uncompressed size.
pub fn payload(image: &[u8]) -> Result<&[u8]> {
    let magic = image.get(HEADER_MAGIC..HEADER_MAGIC + 4).context("too short for a bzImage")?;
    ensure!(magic == b"HdrS", "no bzImage: the setup header's magic is missing");
    let version = image
        .get(PROTOCOL_VERSION..PROTOCOL_VERSION + 2)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u16::from_le_bytes)
        .context("too short for a bzImage")?;
    ensure!(
        version >= FIRST_WITH_PAYLOAD,
        "boot protocol {version:#06x} does not say where the payload is"
    );
    let sectors = match image[SETUP_SECTS] {
        0 => DEFAULT_SETUP_SECTS,
        n => usize::from(n),
    };
    let start = (sectors + 1) * SECTOR + field(image, PAYLOAD_OFFSET)?;
    let length = field(image, PAYLOAD_LENGTH)?;
    ensure!(length > SIZE_TRAILER, "the header describes an empty payload");
    image
        .get(start..start + length - SIZE_TRAILER)
        .with_context(|| format!("the payload ({length} bytes at {start}) passes the file's end"))
}

/// The uncompressed ELF kernel of a bzImage compressed with xz.
pub fn vmlinux(image: &[u8]) -> Result<Vec<u8>> {
    let stream = payload(image)?;
    if !stream.starts_with(XZ_MAGIC) {
        bail!("the kernel is not compressed with xz (starts with {:02x?})", &stream[..4]);
    }
    let elf = unxz(stream)?;
    ensure!(elf.starts_with(ELF_MAGIC), "the decompressed kernel is not an ELF file");
    Ok(elf)
}

fn unxz(stream: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new("xz")
        .args(["--decompress", "--stdout", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting xz (package xz-utils)")?;
    let mut input = child.stdin.take().context("xz has no input")?;
    let output = std::thread::scope(|scope| {
        let writer = scope.spawn(move || input.write_all(stream));
        let output = child.wait_with_output();
        let written = writer.join();
        output.map(|output| (output, written))
    });
    let (output, written) = output.context("waiting for xz")?;
    ensure!(output.status.success(), "xz could not decompress the kernel: {}", output.status);
    match written {
        Ok(result) => result.context("writing to xz")?,
        Err(_) => bail!("the thread writing to xz panicked"),
    }
    Ok(output.stdout)
}

fn field(image: &[u8], offset: usize) -> Result<usize> {
    let bytes = image
        .get(offset..offset + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .context("too short for a bzImage")?;
    Ok(u32::from_le_bytes(bytes) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage with two setup sectors and the given bytes as its payload.
    fn image_with(stream: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * SECTOR + 16];
        image[SETUP_SECTS] = 2;
        image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        image[PROTOCOL_VERSION..PROTOCOL_VERSION + 2].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        let length = u32::try_from(stream.len() + SIZE_TRAILER).unwrap();
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend(stream);
        image.extend(0xdead_beef_u32.to_le_bytes());
        image.extend(b"relocations and such");
        image
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut child = Command::new("xz")
            .args(["--compress", "--stdout"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        child.wait_with_output().unwrap().stdout
    }

    #[test]
    fn payload_is_found_behind_the_setup_sectors() {
        assert_eq!(payload(&image_with(b"stream")).unwrap(), b"stream");
    }

    #[test]
    fn kernel_is_decompressed() {
        let mut kernel = b"\x7fELF".to_vec();
        kernel.extend(vec![7; 200_000]);
        assert_eq!(vmlinux(&image_with(&xz(&kernel))).unwrap(), kernel);
    }

    #[test]
    fn damaged_images_are_refused() {
        assert!(payload(b"MZ").is_err());

        let mut no_magic = image_with(b"stream");
        no_magic[HEADER_MAGIC] = 0;
        assert!(payload(&no_magic).unwrap_err().to_string().contains("magic"));

        let mut old = image_with(b"stream");
        old[PROTOCOL_VERSION] = 0x07;
        assert!(payload(&old).unwrap_err().to_string().contains("0x0207"));

        let mut too_long = image_with(b"stream");
        too_long[PAYLOAD_LENGTH + 3] = 0x7f;
        assert!(payload(&too_long).unwrap_err().to_string().contains("passes the file's end"));
    }

    #[test]
    fn other_content_is_refused() {
        assert!(vmlinux(&image_with(b"\x1f\x8bgzip")).is_err());
        assert!(vmlinux(&image_with(&xz(b"no kernel"))).is_err());
        let mut cut = xz(b"\x7fELF and more");
        cut.truncate(cut.len() - 9);
        assert!(vmlinux(&image_with(&cut)).is_err());
    }
}
