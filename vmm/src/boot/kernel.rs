//! Kernel images: an uncompressed ELF `vmlinux` or a bzImage.

use std::fs;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use sha2::{Digest, Sha256};
use thiserror::Error;
use vm_memory::GuestAddress;

use crate::memory::{GuestRam, layout};

/// Larger files are not kernels; refusing them bounds what a wrong path can make us read.
const MAX_KERNEL_BYTES: u64 = 256 << 20;
const ELF_HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const PROGRAM_HEADER_LOAD: u32 = 1;
const ELF_CLASS_64: u8 = 2;
const ELF_MACHINE_X86_64: u16 = 62;
/// `xloadflags` bit 0: the image has a 64-bit entry point at offset 0x200.
const XLF_KERNEL_64: u16 = 1;
const BZIMAGE_ENTRY_64: u64 = 0x200;

/// Why a kernel image was refused.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The file could not be read.
    #[error("cannot read kernel {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file holds nothing.
    #[error("the kernel image is empty; build it again")]
    Empty,
    /// The file is neither an x86-64 ELF image nor a bzImage.
    #[error("not a kernel: {0}; give an x86-64 vmlinux (ELF) or a bzImage")]
    NotAKernel(&'static str),
    /// The headers speak of more bytes than the file has.
    #[error("the kernel image is cut short: {needed} bytes expected, {found} found; copy it again")]
    Truncated {
        /// Bytes the headers ask for.
        needed: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The kernel needs more memory than the guest has, or memory the guest does not have there.
    #[error(
        "the kernel occupies memory up to {end:#x}, the guest's ends at {limit:#x}; give it more"
    )]
    DoesNotFit {
        /// End of the kernel, in guest-physical bytes.
        end: u64,
        /// End of low guest memory.
        limit: u64,
    },
    /// The loader refused the image.
    #[error("cannot load the kernel: {0}")]
    Load(String),
}

/// A checked kernel image, held in memory: what was hashed is what boots.
#[derive(Clone)]
pub struct KernelImage {
    bytes: Vec<u8>,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Elf { end: u64 },
    BzImage,
}

/// Where a loaded kernel starts.
pub struct LoadedKernel {
    /// Guest-physical address of the 64-bit entry point.
    pub entry: u64,
    /// The bzImage's setup header.
    pub(crate) setup: Option<setup_header>,
}

impl KernelImage {
    /// Reads and checks the image in the file `path`.
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        let read = |source| KernelError::Read {
            path: path.to_owned(),
            source,
        };
        let metadata = fs::metadata(path).map_err(read)?;
        if !metadata.is_file() {
            return Err(KernelError::NotAKernel("the path is not a regular file"));
        }
        if metadata.len() > MAX_KERNEL_BYTES {
            return Err(KernelError::NotAKernel("the file is larger than 256 MiB"));
        }
        Self::from_bytes(fs::read(path).map_err(read)?)
    }

    /// Checks an image that is already in memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, KernelError> {
        let form = recognise(&bytes)?;
        Ok(Self { bytes, form })
    }

    /// SHA-256 of the image.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.bytes).into()
    }

    /// Size of the image in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Copies the kernel to the addresses it asks for.
    pub fn load(&self, ram: &GuestRam, memory_bytes: u64) -> Result<LoadedKernel, KernelError> {
        let high_memory = Some(GuestAddress(layout::HIGH_MEMORY));
        let mut image = Cursor::new(&self.bytes);
        let limit = memory_bytes.min(layout::HOLE_START);
        match self.form {
            Form::Elf { end } => {
                fits(end, limit)?;
                let loaded = Elf::load(ram, None, &mut image, high_memory)
                    .map_err(|e| KernelError::Load(e.to_string()))?;
                Ok(LoadedKernel {
                    entry: loaded.kernel_load.0,
                    setup: None,
                })
            }
            Form::BzImage => {
                let loaded = BzImage::load(ram, None, &mut image, high_memory)
                    .map_err(|e| KernelError::Load(e.to_string()))?;
                let setup = loaded
                    .setup_header
                    .ok_or(KernelError::NotAKernel("the bzImage has no setup header"))?;
                if setup.xloadflags & XLF_KERNEL_64 == 0 {
                    return Err(KernelError::NotAKernel(
                        "the bzImage has no 64-bit entry point",
                    ));
                }
                let start = setup.pref_address.max(loaded.kernel_load.0);
                fits(start.saturating_add(u64::from(setup.init_size)), limit)?;
                Ok(LoadedKernel {
                    entry: loaded.kernel_load.0 + BZIMAGE_ENTRY_64,
                    setup: Some(setup),
                })
            }
        }
    }
}

fn fits(end: u64, limit: u64) -> Result<(), KernelError> {
    if end > limit {
        Err(KernelError::DoesNotFit { end, limit })
    } else {
        Ok(())
    }
}

fn recognise(bytes: &[u8]) -> Result<Form, KernelError> {
    if bytes.is_empty() {
        Err(KernelError::Empty)
    } else if bytes.starts_with(b"\x7fELF") {
        check_elf(bytes)
    } else if bytes.get(0x202..0x206) == Some(b"HdrS") {
        check_bzimage(bytes)
    } else {
        Err(KernelError::NotAKernel(
            "neither an ELF header nor a boot sector",
        ))
    }
}

/// System V ABI, chapter 4: every loadable segment must lie within the file.
fn check_elf(bytes: &[u8]) -> Result<Form, KernelError> {
    let found = bytes.len() as u64;
    if bytes.len() < ELF_HEADER_BYTES {
        return Err(KernelError::Truncated {
            needed: ELF_HEADER_BYTES as u64,
            found,
        });
    }
    if bytes.get(4) != Some(&ELF_CLASS_64) || read_u16(bytes, 18) != Some(ELF_MACHINE_X86_64) {
        return Err(KernelError::NotAKernel("the ELF file is not for x86-64"));
    }
    let table = read_u64(bytes, 32).unwrap_or_default();
    let count = u64::from(read_u16(bytes, 56).unwrap_or_default());
    let needed = table.saturating_add(count * PROGRAM_HEADER_BYTES as u64);
    if needed > found {
        return Err(KernelError::Truncated { needed, found });
    }
    let mut end = 0;
    for index in 0..count {
        let at = (table + index * PROGRAM_HEADER_BYTES as u64) as usize;
        if read_u32(bytes, at) != Some(PROGRAM_HEADER_LOAD) {
            continue;
        }
        let field = |offset| read_u64(bytes, at + offset).unwrap_or_default();
        let (offset, address, in_file, in_memory) = (field(8), field(24), field(32), field(40));
        let needed = offset.saturating_add(in_file);
        if needed > found {
            return Err(KernelError::Truncated { needed, found });
        }
        if address < layout::HIGH_MEMORY && in_memory > 0 {
            return Err(KernelError::NotAKernel(
                "a segment asks for memory below 1 MiB",
            ));
        }
        end = end.max(address.saturating_add(in_memory));
    }
    if end == 0 {
        return Err(KernelError::NotAKernel(
            "the ELF file has no loadable segment",
        ));
    }
    Ok(Form::Elf { end })
}

/// Linux boot protocol, "the real-mode kernel header".
fn check_bzimage(bytes: &[u8]) -> Result<Form, KernelError> {
    let setup_sectors = match bytes.get(0x1f1) {
        Some(0) | None => 4,
        Some(sectors) => u64::from(*sectors),
    };
    let paragraphs = u64::from(read_u32(bytes, 0x1f4).unwrap_or_default());
    let needed = (setup_sectors + 1) * 512 + paragraphs * 16;
    let found = bytes.len() as u64;
    if needed > found || paragraphs == 0 {
        return Err(KernelError::Truncated { needed, found });
    }
    Ok(Form::BzImage)
}

fn read<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    read(bytes, at).map(u16::from_le_bytes)
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    read(bytes, at).map(u32::from_le_bytes)
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    read(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
