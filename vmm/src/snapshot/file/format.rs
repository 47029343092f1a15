//! What reading and writing agree on.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::SnapshotError;
use super::version::VERSION;
use crate::arch::{CpuidTemplate, HostIdentity};
use crate::devices::vsock::MIN_GUEST_CID;
use crate::kvm::MAX_VCPUS;
use crate::memory::{MAX_MEMORY_MIB, MIN_MEMORY_MIB, PAGE_BYTES};
use crate::snapshot::{Golden, Origin};

/// First bytes of every snapshot. The first one is not text, and the line ends show a file that
/// was converted on its way.
pub const MAGIC: [u8; 8] = *b"\xb5BSM\r\n\x1a\n";
/// Magic number, version, length of the header.
pub const PREAMBLE_BYTES: usize = 16;
/// Bytes of a section's kind.
pub const KIND_BYTES: usize = 8;
/// Kind, version, zero, length.
pub const SECTION_HEAD_BYTES: usize = KIND_BYTES + 16;
/// Region or zero, first page, number of pages.
pub const EXTENT_BYTES: usize = 12;
/// Unit of memory and disk content.
pub const PAGE: usize = PAGE_BYTES;
/// A SHA-256.
pub const DIGEST_BYTES: usize = 32;

/// Longest header.
pub const MAX_HEADER: u64 = 1 << 20;
/// Largest disk, the same as for a disk image.
pub const MAX_DISK: u64 = 4 << 30;
const MAX_MEMORY: u64 = (MAX_MEMORY_MIB as u64) << 20;
/// Largest console ring that a file may ask for.
const MAX_CONSOLE: usize = 64 << 20;

/// The sections, in the order of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// The CPUID template.
    Cpuid,
    /// vCPUs.
    Vcpus,
    /// Interrupt controllers, timer, clock.
    Machine,
    /// Devices.
    Devices,
    /// Guest memory.
    Memory,
    /// The disk, if there is one.
    Disk,
}

impl Section {
    /// Kind of the section in the file: the name, with zeros behind it.
    pub fn kind(self) -> [u8; KIND_BYTES] {
        let mut kind = [0; KIND_BYTES];
        for (to, from) in kind.iter_mut().zip(self.name().bytes()) {
            *to = from;
        }
        kind
    }

    /// Version of its content. Goes up with every change of that.
    pub fn version(self) -> u32 {
        match self {
            Self::Cpuid
            | Self::Vcpus
            | Self::Machine
            | Self::Devices
            | Self::Memory
            | Self::Disk => 1,
        }
    }

    /// Name of the section, at most [`KIND_BYTES`] long.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpuid => "cpuid",
            Self::Vcpus => "vcpus",
            Self::Machine => "machine",
            Self::Devices => "devices",
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }

    /// The most bytes it can have.
    pub fn limit(self) -> u64 {
        // Every page of its own, in the worst case.
        let pages = |bytes: u64| bytes + bytes / PAGE as u64 * EXTENT_BYTES as u64 + 64;
        match self {
            Self::Cpuid | Self::Machine => 1 << 20,
            Self::Vcpus => 4 << 20,
            // Two full buffers for each of as many connections as there may be.
            Self::Devices => 600 << 20,
            Self::Memory => pages(MAX_MEMORY),
            Self::Disk => pages(MAX_DISK),
        }
    }

    /// For `map_err`: something in this section makes no sense.
    pub fn damaged(self, reason: impl Into<String>) -> SnapshotError {
        SnapshotError::Damaged { section: self.name(), reason: reason.into() }
    }

    /// Reads the section's content from all of `bytes`.
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, SnapshotError> {
        match postcard::take_from_bytes(bytes) {
            Ok((value, [])) => Ok(value),
            Ok(_) => Err(self.damaged("there is more in it than belongs there")),
            Err(e) => Err(self.damaged(e.to_string())),
        }
    }
}

/// What a snapshot is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHeader {
    pub vmm_version: String,
    pub origin: Origin,
    pub vcpus: u8,
    /// SHA-256 and length of the frozen disk.
    pub disk: Option<([u8; 32], u64)>,
    pub processor: Processor,
    pub cpuid_sha256: [u8; 32],
    pub tsc_offset_works: bool,
    /// The host that it was captured on.
    pub host: HostIdentity,
}

/// Which processor a snapshot was made on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Processor {
    /// `GenuineIntel`, `AuthenticAMD`.
    pub vendor: String,
    /// Family, the extended one added.
    pub family: u32,
    /// Model, the extended one included.
    pub model: u32,
}

impl Processor {
    /// The one a template was made on.
    pub(super) fn of(cpuid: &CpuidTemplate) -> Self {
        let (vendor, family, model) = cpuid.processor();
        Self { vendor, family, model }
    }
}

impl std::fmt::Display for Processor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} family {:#x} model {:#x}", self.vendor, self.family, self.model)
    }
}

impl FileHeader {
    /// What `golden` is bound to.
    pub fn of(golden: &Golden) -> Result<Self, SnapshotError> {
        let disk = match &golden.disk {
            Some(disk) => Some((disk.sha256()?, disk.length())),
            None => None,
        };
        Ok(Self {
            vmm_version: golden.made_by.clone(),
            origin: golden.origin.clone(),
            vcpus: golden.cpuid.vcpus(),
            disk,
            processor: Processor::of(&golden.cpuid),
            cpuid_sha256: golden.cpuid.sha256(),
            tsc_offset_works: golden.tsc_offset_works,
            host: golden.host.clone(),
        })
    }

    /// Finds numbers that no machine can have.
    pub fn check(&self) -> Result<(), SnapshotError> {
        let origin = &self.origin;
        let wrong = if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&origin.memory_mib) {
            format!("{} MiB of memory", origin.memory_mib)
        } else if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            format!("{} vCPUs", self.vcpus)
        } else if !(MIN_GUEST_CID..u32::MAX).contains(&origin.guest_cid) {
            format!("guest CID {}", origin.guest_cid)
        } else if origin.console_bytes > MAX_CONSOLE {
            format!("a console of {} bytes", origin.console_bytes)
        } else if self.disk.is_some_and(|(_, bytes)| bytes > MAX_DISK) {
            "a disk of more than 4 GiB".to_owned()
        } else {
            return Ok(());
        };
        Err(SnapshotError::Damaged { section: "header", reason: wrong })
    }
}

/// Magic number, version and length of a header.
pub fn preamble(header_bytes: u32) -> [u8; PREAMBLE_BYTES] {
    let mut bytes = [0; PREAMBLE_BYTES];
    let (magic, numbers) = bytes.split_at_mut(MAGIC.len());
    magic.copy_from_slice(&MAGIC);
    let (version, length) = numbers.split_at_mut(4);
    version.copy_from_slice(&VERSION.to_le_bytes());
    length.copy_from_slice(&header_bytes.to_le_bytes());
    bytes
}

/// What comes before a section's content.
pub fn section_head(section: Section, length: u64) -> [u8; SECTION_HEAD_BYTES] {
    let mut head = [0; SECTION_HEAD_BYTES];
    let (kind, numbers) = head.split_at_mut(KIND_BYTES);
    kind.copy_from_slice(&section.kind());
    let number = u128::from(section.version()) | u128::from(length) << 64;
    numbers.copy_from_slice(&number.to_le_bytes());
    head
}

/// A value in the form that files and hashes use.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, SnapshotError> {
    postcard::to_stdvec(value).map_err(|e| SnapshotError::Io(std::io::Error::other(e)))
}

/// SHA-256 over several pieces, one after the other.
pub fn sha256<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for piece in pieces {
        hash.update(piece);
    }
    hash.finalize().into()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
