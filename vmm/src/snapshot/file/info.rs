//! A snapshot for people.

use std::fs::File;
use std::path::Path;

use serde::Serialize;

use super::expect::{check_host, same_version};
use super::format::{Processor, hex};
use super::version::VERSION;
use super::{SnapshotError, open, read_file, sparse};

/// Everything about a snapshot but its content. Making one reads the whole file and checks every
/// checksum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Info {
    /// Version of the file format.
    pub format_version: u32,
    /// Version of the program that made it.
    pub vmm_version: String,
    /// [`Golden::hash`](crate::Golden::hash).
    pub golden_hash: String,
    /// SHA-256 of the kernel image.
    pub kernel_sha256: String,
    /// SHA-256 of the disk image the machine was made with.
    pub rootfs_sha256: Option<String>,
    /// SHA-256 of the disk as captured.
    pub disk_sha256: Option<String>,
    /// Kernel command line, without the devices that the machine appends.
    pub cmdline: String,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// vsock address of the guest.
    pub guest_cid: u32,
    /// Size of the console ring.
    pub console_bytes: usize,
    /// The processor it was made on.
    pub processor: Processor,
    /// SHA-256 of the CPUID template.
    pub cpuid_sha256: String,
    /// Why this host cannot use it, if it cannot.
    pub unfit_here: Option<String>,
    /// Length of the file.
    pub file_bytes: u64,
    /// Sections of the file.
    pub sections: Vec<SectionInfo>,
    /// Pages of memory, 4 KiB each, that are not all zero.
    pub memory_pages: u64,
    /// Size of the disk.
    pub disk_bytes: u64,
    /// Blocks of the disk, 4 KiB each, that are not all zero.
    pub disk_blocks: u64,
}

/// One section of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SectionInfo {
    /// Name of the section.
    pub name: &'static str,
    /// Length of its content.
    pub bytes: u64,
}

impl Info {
    /// Reads the file `path`, which may be a snapshot of another host.
    ///
    /// # Errors
    ///
    /// The file cannot be opened or read, or is no undamaged snapshot of this version of the format.
    pub fn read(path: &Path) -> Result<Self, SnapshotError> {
        Self::read_from(open(path)?)
    }

    /// [`Info::read`], from a descriptor that stands at the beginning of a regular file.
    ///
    /// # Errors
    ///
    /// As [`Info::read`].
    pub fn read_from(file: File) -> Result<Self, SnapshotError> {
        let loaded = read_file(file, None)?;
        let (header, golden) = (loaded.header, loaded.golden);
        let count = |file: &File, length| -> Result<u64, SnapshotError> {
            let runs = sparse::runs(file, 0, length)?;
            Ok(runs.iter().map(|run| u64::from(run.count)).sum())
        };
        let memory = golden.memory.sealed();
        let mut disk = None;
        if let Some(image) = &golden.disk {
            let sha256 = image.sha256()?;
            if header.disk.map(|(stated, _)| stated) != Some(sha256) {
                let reason = "its content is not the one that the header names".to_owned();
                return Err(SnapshotError::Damaged { section: "disk", reason });
            }
            let blocks = count(image.memory().file(), image.length())?;
            disk = Some((hex(&sha256), image.length(), blocks));
        }
        let unfit_here = match same_version(&header) {
            Ok(()) => check_host(&golden.cpuid, &golden.host).err(),
            Err(e) => Some(e),
        };
        let (disk_bytes, disk_blocks) = disk.as_ref().map_or((0, 0), |disk| (disk.1, disk.2));
        Ok(Self {
            format_version: VERSION,
            golden_hash: hex(&golden.hash()?),
            kernel_sha256: hex(&header.origin.kernel_sha256),
            rootfs_sha256: header.origin.rootfs_sha256.map(|sha256| hex(&sha256)),
            disk_sha256: disk.map(|disk| disk.0),
            memory_mib: header.origin.memory_mib,
            vcpus: header.vcpus,
            guest_cid: header.origin.guest_cid,
            console_bytes: header.origin.console_bytes,
            processor: header.processor,
            cpuid_sha256: hex(&header.cpuid_sha256),
            unfit_here: unfit_here.map(|e| e.to_string()),
            file_bytes: loaded.file_bytes,
            sections: loaded
                .sections
                .iter()
                .map(|(section, bytes)| SectionInfo { name: section.name(), bytes: *bytes })
                .collect(),
            memory_pages: count(memory.file(), memory.length() as u64)?,
            disk_bytes,
            disk_blocks,
            vmm_version: header.vmm_version,
            cmdline: header.origin.cmdline,
        })
    }
}
