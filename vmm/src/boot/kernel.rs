//! A checked and sealed kernel image, which machines map.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use thiserror::Error;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::arch::{CheckedImage, ImageError, LoadedKernel, SetupHeader, layout};
use crate::memory::{GuestRam, PAGE_BYTES, SealedMemory};

/// Most bytes of a kernel image. The limit bounds what a wrong path can make this program read.
const MAX_KERNEL_BYTES: u64 = 256 << 20;

/// Why a kernel image was refused.
#[derive(Debug, Error)]
#[non_exhaustive]
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

/// A checked kernel image, laid out as the guest will see it and sealed. What was hashed is what
/// boots. Machines map the image privately, so a boot copies nothing and machines share the pages they
/// do not write.
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

impl KernelImage {
    /// Reads and checks the image in the file `path`.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is larger than 256 MiB, or holds no kernel of this architecture.
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
    ///
    /// # Errors
    ///
    /// The bytes are no kernel of this architecture, or are cut short.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KernelError> {
        let sha256 = Sha256::digest(bytes).into();
        let size = bytes.len();
        if bytes.is_empty() {
            return Err(KernelError::Empty);
        }
        let image = CheckedImage::new(bytes).map_err(|error| refused(&error))?;
        let (memory, LoadedKernel { entry, setup }) = lay_out(&image)?;
        let extent = image.extent();
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

    /// Maps the kernel into `ram`, of `memory_bytes` bytes, at the addresses it asks for.
    ///
    /// # Errors
    ///
    /// The guest has no memory at these addresses, or the host refuses the mapping.
    pub(crate) fn load(
        &self,
        ram: &GuestRam,
        memory_bytes: u64,
    ) -> Result<LoadedKernel, KernelError> {
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

/// Lets the loader write the image into sealed memory that covers its extent.
fn lay_out(image: &CheckedImage<'_>) -> Result<(SealedMemory, LoadedKernel), KernelError> {
    let extent = image.extent();
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
        result = image.load(&scratch).map_err(KernelError::Load);
        Ok::<(), io::Error>(())
    })
    .map_err(|e| KernelError::Load(e.to_string()))?;
    Ok((memory, result?))
}

fn refused(error: &ImageError) -> KernelError {
    match *error {
        ImageError::NotAKernel(reason) => KernelError::NotAKernel(reason),
        ImageError::Truncated { needed, found } => KernelError::Truncated { needed, found },
    }
}

#[cfg(test)]
mod tests;
