//! Kernel images that x86-64 guests boot from: an uncompressed ELF `vmlinux` or a bzImage.

use std::io::Cursor;

use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::super::layout;
use super::SetupHeader;
use crate::memory::PAGE_BYTES;

const ELF_HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const PROGRAM_HEADER_LOAD: u32 = 1;
const ELF_CLASS_64: u8 = 2;
const ELF_MACHINE_X86_64: u16 = 62;
/// `xloadflags` bit 0: the image has a 64-bit entry point at offset 0x200.
const XLF_KERNEL_64: u16 = 1;
const BZIMAGE_ENTRY_64: u64 = 0x200;

/// Why an image is not a kernel for this architecture.
#[derive(Debug)]
pub enum ImageError {
    /// The image has another form.
    NotAKernel(&'static str),
    /// The headers speak of more bytes than the image has.
    Truncated {
        /// Bytes the headers ask for.
        needed: u64,
        /// Bytes there are.
        found: u64,
    },
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Elf,
    BzImage,
}

/// A kernel image whose headers have been checked.
pub struct CheckedImage<'a> {
    bytes: &'a [u8],
    format: Format,
    extent: Extent,
}

/// Guest-physical range a kernel is loaded to, and how far it reaches beyond.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// First byte, page aligned.
    pub start: u64,
    /// First byte after what is loaded.
    pub loaded_end: u64,
    /// End of all memory the kernel needs before it manages memory itself.
    pub end: u64,
}

/// Where a loaded kernel starts.
pub struct LoadedKernel {
    /// Guest-physical address of the 64-bit entry point.
    pub entry: u64,
    /// The bzImage's setup header; an ELF image has none.
    pub setup: Option<SetupHeader>,
}

impl<'a> CheckedImage<'a> {
    /// Checks the headers of an image.
    ///
    /// # Errors
    ///
    /// The image is neither an x86-64 ELF file nor a bzImage with a 64-bit entry point, or it is cut
    /// short.
    pub fn new(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let (format, extent) = if bytes.starts_with(b"\x7fELF") {
            (Format::Elf, check_elf(bytes)?)
        } else if bytes.get(0x202..0x206) == Some(b"HdrS") {
            (Format::BzImage, check_bzimage(bytes)?)
        } else {
            return Err(ImageError::NotAKernel("neither an ELF header nor a boot sector"));
        };
        Ok(Self { bytes, format, extent })
    }

    /// Where the kernel goes.
    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// Writes the kernel into `memory`, which must cover [`Self::extent`] up to its `loaded_end`.
    ///
    /// # Errors
    ///
    /// The loader refuses the image; the text is its reason.
    pub fn load(&self, memory: &GuestMemoryMmap<()>) -> Result<LoadedKernel, String> {
        match self.format {
            Format::Elf => {
                let loaded = load::<Elf>(memory, self.bytes)?;
                Ok(LoadedKernel { entry: loaded.kernel_load.0, setup: None })
            }
            Format::BzImage => {
                let loaded = load::<BzImage>(memory, self.bytes)?;
                let entry = loaded.kernel_load.0 + BZIMAGE_ENTRY_64;
                Ok(LoadedKernel { entry, setup: loaded.setup_header })
            }
        }
    }
}

fn load<L: KernelLoader>(
    memory: &GuestMemoryMmap<()>,
    bytes: &[u8],
) -> Result<KernelLoaderResult, String> {
    let high_memory = Some(GuestAddress(layout::HIGH_MEMORY));
    L::load(memory, None, &mut Cursor::new(bytes), high_memory).map_err(|e| e.to_string())
}

/// Checks that every loadable segment lies within the file (System V ABI, chapters 4 and 5).
fn check_elf(bytes: &[u8]) -> Result<Extent, ImageError> {
    let found = bytes.len() as u64;
    if bytes.len() < ELF_HEADER_BYTES {
        return Err(ImageError::Truncated { needed: ELF_HEADER_BYTES as u64, found });
    }
    if bytes.get(4) != Some(&ELF_CLASS_64) || read_u16(bytes, 18) != Some(ELF_MACHINE_X86_64) {
        return Err(ImageError::NotAKernel("the ELF file is not for x86-64"));
    }
    let table = read_u64(bytes, 32).unwrap_or_default();
    let count = u64::from(read_u16(bytes, 56).unwrap_or_default());
    let needed = table.saturating_add(count * PROGRAM_HEADER_BYTES as u64);
    if needed > found {
        return Err(ImageError::Truncated { needed, found });
    }
    let mut extent = Extent { start: u64::MAX, loaded_end: 0, end: 0 };
    for index in 0..count {
        let at = (table + index * PROGRAM_HEADER_BYTES as u64) as usize;
        if read_u32(bytes, at) != Some(PROGRAM_HEADER_LOAD) {
            continue;
        }
        let field = |offset| read_u64(bytes, at + offset).unwrap_or_default();
        let (offset, address, in_file, in_memory) = (field(8), field(24), field(32), field(40));
        let needed = offset.saturating_add(in_file);
        if needed > found {
            return Err(ImageError::Truncated { needed, found });
        }
        if address < layout::HIGH_MEMORY && in_memory > 0 {
            return Err(ImageError::NotAKernel("a segment asks for memory below 1 MiB"));
        }
        extent.start = extent.start.min(address & !(PAGE_BYTES as u64 - 1));
        extent.loaded_end = extent.loaded_end.max(address.saturating_add(in_file));
        extent.end = extent.end.max(address.saturating_add(in_memory.max(in_file)));
    }
    if extent.loaded_end == 0 {
        return Err(ImageError::NotAKernel("the ELF file has no loadable segment"));
    }
    Ok(extent)
}

/// Checks the header of a bzImage (Linux boot protocol, "the real-mode kernel header").
fn check_bzimage(bytes: &[u8]) -> Result<Extent, ImageError> {
    let setup_sectors = match bytes.get(0x1f1) {
        Some(0) | None => 4,
        Some(sectors) => u64::from(*sectors),
    };
    let paragraphs = u64::from(read_u32(bytes, 0x1f4).unwrap_or_default());
    let setup = (setup_sectors + 1) * 512;
    let found = bytes.len() as u64;
    if setup + paragraphs * 16 > found || paragraphs == 0 {
        return Err(ImageError::Truncated { needed: setup + paragraphs * 16, found });
    }
    if read_u16(bytes, 0x236).unwrap_or_default() & XLF_KERNEL_64 == 0 {
        return Err(ImageError::NotAKernel("the bzImage has no 64-bit entry point"));
    }
    let start = u64::from(read_u32(bytes, 0x214).unwrap_or_default());
    if start < layout::HIGH_MEMORY || !start.is_multiple_of(PAGE_BYTES as u64) {
        return Err(ImageError::NotAKernel("the bzImage asks for an odd load address"));
    }
    // It decompresses itself to its preferred address and needs `init_size` bytes from there.
    let preferred = read_u64(bytes, 0x258).unwrap_or_default();
    let init_size = u64::from(read_u32(bytes, 0x260).unwrap_or_default());
    let loaded_end = start + (found - setup);
    let end = preferred.max(start).saturating_add(init_size).max(loaded_end);
    Ok(Extent { start, loaded_end, end })
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
