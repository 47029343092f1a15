//! Golden states in files.
//!
//! A snapshot is written once and read whole. What is checked is what is used: the file is opened
//! once, read once from the beginning to the end, and its memory goes straight into a sealed
//! memfd; changing or replacing the file afterwards changes nothing.
//!
//! Checksums find damage, not malice: a process that can write the file can write the checksums. Nothing
//! in a file can make this process crash or use more memory than the file could justify, but the
//! guest in it is whatever the file says. Keep snapshots where only their owner can write; they
//! are made with mode 0600 because guest memory may hold secrets.
//!
//! # Format
//!
//! All numbers are little-endian. Version 2:
//!
//! ```text
//! preamble
//!   8   magic: b5 "BSM" 0d 0a 1a 0a
//!   4   version of this format: 2
//!   4   length of the header, at most 1 MiB
//! header
//!   n   the header, below
//!   32  SHA-256 of preamble and header
//! section, once for each of cpuid, vcpus, machine, devices, memory and, with a disk, disk,
//! in this order
//!   8   kind: that name in ASCII, with zeros behind it
//!   4   version of the content: 1
//!   4   zero
//!   8   length of the content
//!   n   the content, below
//!   32  SHA-256 of the 24 bytes before the content, and the content
//! end
//!   32  SHA-256 of all digests so far, the header's first
//! ```
//!
//! Nothing follows. A file of another version is refused, and so is a section or a device of another
//! version or of a kind that this program does not know. Header and the first four sections are in the [postcard] wire format, the
//! structures of KVM as bytes with their length before them:
//!
//! - *header*: version of this crate; memory in MiB, SHA-256 of the kernel image, SHA-256 of the
//!   disk image the machine was made with, kernel command line, guest CID, size of the console
//!   ring; number of vCPUs; SHA-256 and length of the disk as captured; vendor, family and model of
//!   the processor; SHA-256 of the CPUID template; whether TSCs can be restored;
//! - *cpuid*: list of `kvm_cpuid_entry2`, number of vCPUs;
//! - *vcpus*: for each its `kvm_mp_state`, `kvm_regs`, `kvm_sregs`, `kvm_vcpu_events`,
//!   `kvm_xsave`, `kvm_xcrs`, `kvm_debugregs`, `kvm_lapic_state`, list of `kvm_msr_entry`, TSC;
//! - *machine*: three `kvm_irqchip`, `kvm_pit_state2`, kvmclock in nanoseconds;
//! - *devices*: number of devices, then for each its kind as a string, the version of its state, and
//!   its state as bytes with their length before them. The kinds are `serial`, `block` with a disk,
//!   `vsock` and `entropy`, in this order, all of version 1. The state of a virtio device begins with
//!   the number of its transport, 0 for virtio-mmio, and the transport's registers.
//!
//! *memory* and *disk* have the same form. Pages that are not listed are zero:
//!
//! ```text
//!   4   number of extents
//!   12  for each, ascending: region, first page in it, number of pages
//!   n   the pages of all extents, 4096 bytes each; the last one of a disk may be shorter
//! ```
//!
//! Memory has one region up to 3 GiB and, if it is larger, a second one from 4 GiB on. A disk has
//! one region.
//!
//! [postcard]: https://postcard.jamesmunns.com/wire-format

mod diff;
mod error;
mod expect;
mod format;
mod hash;
mod info;
mod read;
mod sparse;
#[cfg(test)]
mod tests;
mod version;
mod write;

pub use diff::{Change, Diff, Range, VcpuChange};
pub use error::SnapshotError;
pub use expect::Expectation;
pub use format::Processor;
pub use info::{Info, SectionInfo};
pub use version::VERSION;

use std::fs::{File, OpenOptions};
use std::io::BufReader;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::Golden;
use read::Loaded;

const BUFFER_BYTES: usize = 256 << 10;

impl Golden {
    /// Writes the state to `path`, which is replaced at once when everything is on disk. After an
    /// error what was there before is there still, and nothing else is left behind.
    ///
    /// # Errors
    ///
    /// The state cannot be read, or the file cannot be written, as [`SnapshotError::Write`] says.
    pub fn save(&self, path: &Path) -> Result<(), SnapshotError> {
        write::save(self, path)
    }

    /// Reads a state for use on this host. It has to be undamaged, made by this version of this
    /// program on a processor that looks the same to guests, and be what is expected.
    ///
    /// # Errors
    ///
    /// The file cannot be opened or read, is no undamaged snapshot of this version of the format, or, as
    /// [`SnapshotError::Mismatch`] says, is of another processor or of something else than `expect`.
    pub fn load(path: &Path, expect: &Expectation) -> Result<Arc<Self>, SnapshotError> {
        Self::load_from(open(path)?, expect)
    }

    /// [`Golden::load`], from a descriptor that stands at the beginning of a regular file.
    ///
    /// # Errors
    ///
    /// As [`Golden::load`].
    pub fn load_from(file: File, expect: &Expectation) -> Result<Arc<Self>, SnapshotError> {
        Ok(Arc::new(read_file(file, Some(expect))?.golden))
    }

    /// SHA-256 of everything in the state, the same before it is saved and after it is loaded,
    /// computed when first asked for: a constant, then the header, the first four sections as a
    /// file has them, each with its length before it, then each page of memory that is not zero
    /// with its guest-physical address before it. The header has the disk's SHA-256.
    ///
    /// # Errors
    ///
    /// Memory or disk of the state cannot be read.
    pub fn hash(&self) -> Result<[u8; 32], SnapshotError> {
        hash::of(self)
    }
}

fn open(path: &Path) -> Result<File, SnapshotError> {
    // Without waiting: opening a pipe would wait for a writer.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|source| SnapshotError::Open { path: path.to_owned(), source })
}

fn read_file(file: File, expect: Option<&Expectation>) -> Result<Loaded, SnapshotError> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(SnapshotError::NotAFile);
    }
    read::read(BufReader::with_capacity(BUFFER_BYTES, file), metadata.len(), expect)
}
