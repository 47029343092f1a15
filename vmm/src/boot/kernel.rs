//! Kernel images: an uncompressed ELF `vmlinux` or a bzImage.

pub(crate) mod small_elf;

use std::fs;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult};
use sha2::{Digest, Sha256};
use thiserror::Error;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::arch::{SetupHeader, layout};
use crate::memory::{GuestRam, PAGE_BYTES, SealedMemory};

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

/// A checked kernel image, laid out as the guest will see it and sealed: what was hashed is what
/// boots. Machines map it privately, so a boot copies nothing and machines share what they do not
/// write.
pub struct KernelImage {
    memory: SealedMemory,
    /// Guest-physical address of the first byte of `memory`.
    start: u64,
    /// End of all memory the kernel needs before it manages memory itself.
    end: u64,
    entry: u64,
    setup: Option<SetupHeader>,
    sha256: [u8; 32],
    size: usize,
}

/// Guest-physical range a kernel is loaded to, and how far it reaches beyond.
struct Extent {
    start: u64,
    loaded_end: u64,
    end: u64,
}

/// Where a loaded kernel starts.
pub struct LoadedKernel {
    /// Guest-physical address of the 64-bit entry point.
    pub entry: u64,
    /// The bzImage's setup header.
    pub(crate) setup: Option<SetupHeader>,
}

impl KernelImage {
    /// Reads and checks the image in the file `path`.
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        let read = |source| KernelError::Read { path: path.to_owned(), source };
        let metadata = fs::metadata(path).map_err(read)?;
        if !metadata.is_file() {
            return Err(KernelError::NotAKernel("the path is not a regular file"));
        }
        if metadata.len() > MAX_KERNEL_BYTES {
            return Err(KernelError::NotAKernel("the file is larger than 256 MiB"));
        }
        Self::from_bytes(&fs::read(path).map_err(read)?)
    }

    /// Checks an image that is already in memory.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KernelError> {
        let sha256 = Sha256::digest(bytes).into();
        let size = bytes.len();
        if bytes.is_empty() {
            return Err(KernelError::Empty);
        }
        let (extent, entry, setup, memory) = if bytes.starts_with(b"\x7fELF") {
            let extent = check_elf(bytes)?;
            let (memory, loaded) = lay_out::<Elf>(bytes, &extent)?;
            (extent, loaded.kernel_load.0, None, memory)
        } else if bytes.get(0x202..0x206) == Some(b"HdrS") {
            let extent = check_bzimage(bytes)?;
            let (memory, loaded) = lay_out::<BzImage>(bytes, &extent)?;
            (extent, loaded.kernel_load.0 + BZIMAGE_ENTRY_64, loaded.setup_header, memory)
        } else {
            return Err(KernelError::NotAKernel("neither an ELF header nor a boot sector"));
        };
        Ok(Self { memory, start: extent.start, end: extent.end, entry, setup, sha256, size })
    }

    /// SHA-256 of the image file.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// Size of the image file in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Puts the kernel at the addresses it asks for.
    pub fn load(&self, ram: &GuestRam, memory_bytes: u64) -> Result<LoadedKernel, KernelError> {
        let limit = memory_bytes.min(layout::HOLE_START);
        if self.end > limit {
            return Err(KernelError::DoesNotFit { end: self.end, limit });
        }
        let length = self.memory.length();
        let target = ram
            .get_slice(GuestAddress(self.start), length)
            .map_err(|e| KernelError::Load(e.to_string()))?;
        // SAFETY: the slice shows that the range lies in RAM owned by `ram`; start and length are
        // page aligned; guest memory is only ever reached through volatile accesses.
        unsafe { self.memory.map_over(target.ptr_guard_mut().as_ptr(), 0, length) }
            .map_err(|e| KernelError::Load(e.to_string()))?;
        Ok(LoadedKernel { entry: self.entry, setup: self.setup })
    }
}

/// Lets the loader write the image into sealed memory that covers `extent`.
fn lay_out<L: KernelLoader>(
    bytes: &[u8],
    extent: &Extent,
) -> Result<(SealedMemory, KernelLoaderResult), KernelError> {
    let length = usize::try_from(extent.loaded_end.saturating_sub(extent.start))
        .ok()
        .filter(|length| *length as u64 <= MAX_KERNEL_BYTES)
        .ok_or(KernelError::NotAKernel("its segments spread over more than 256 MiB"))?
        .next_multiple_of(PAGE_BYTES);
    let mut result = Err(KernelError::Load("nothing was loaded".into()));
    let memory = SealedMemory::create("kernel", length, |file| {
        let file = FileOffset::new(file.try_clone()?, 0);
        let start = GuestAddress(extent.start);
        let scratch = GuestMemoryMmap::<()>::from_ranges_with_files([(start, length, Some(file))])
            .map_err(io::Error::other)?;
        let high_memory = Some(GuestAddress(layout::HIGH_MEMORY));
        result = L::load(&scratch, None, &mut Cursor::new(bytes), high_memory)
            .map_err(|e| KernelError::Load(e.to_string()));
        Ok::<(), io::Error>(())
    })
    .map_err(|e| KernelError::Load(e.to_string()))?;
    Ok((memory, result?))
}

/// System V ABI, chapter 4: every loadable segment must lie within the file.
fn check_elf(bytes: &[u8]) -> Result<Extent, KernelError> {
    let found = bytes.len() as u64;
    if bytes.len() < ELF_HEADER_BYTES {
        return Err(KernelError::Truncated { needed: ELF_HEADER_BYTES as u64, found });
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
            return Err(KernelError::Truncated { needed, found });
        }
        if address < layout::HIGH_MEMORY && in_memory > 0 {
            return Err(KernelError::NotAKernel("a segment asks for memory below 1 MiB"));
        }
        extent.start = extent.start.min(address & !(PAGE_BYTES as u64 - 1));
        extent.loaded_end = extent.loaded_end.max(address.saturating_add(in_file));
        extent.end = extent.end.max(address.saturating_add(in_memory.max(in_file)));
    }
    if extent.loaded_end == 0 {
        return Err(KernelError::NotAKernel("the ELF file has no loadable segment"));
    }
    Ok(extent)
}

/// Linux boot protocol, "the real-mode kernel header".
fn check_bzimage(bytes: &[u8]) -> Result<Extent, KernelError> {
    let setup_sectors = match bytes.get(0x1f1) {
        Some(0) | None => 4,
        Some(sectors) => u64::from(*sectors),
    };
    let paragraphs = u64::from(read_u32(bytes, 0x1f4).unwrap_or_default());
    let setup = (setup_sectors + 1) * 512;
    let found = bytes.len() as u64;
    if setup + paragraphs * 16 > found || paragraphs == 0 {
        return Err(KernelError::Truncated { needed: setup + paragraphs * 16, found });
    }
    if read_u16(bytes, 0x236).unwrap_or_default() & XLF_KERNEL_64 == 0 {
        return Err(KernelError::NotAKernel("the bzImage has no 64-bit entry point"));
    }
    let start = u64::from(read_u32(bytes, 0x214).unwrap_or_default());
    if start < layout::HIGH_MEMORY || !start.is_multiple_of(PAGE_BYTES as u64) {
        return Err(KernelError::NotAKernel("the bzImage asks for an odd load address"));
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

#[cfg(test)]
mod tests;
