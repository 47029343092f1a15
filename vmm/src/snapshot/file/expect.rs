//! What a snapshot has to have been made with.

use std::fmt::Display;

use super::SnapshotError;
use super::format::{FileHeader, Processor, hex};
use crate::arch::{CpuidTemplate, HostIdentity};
use crate::kvm;

/// What a snapshot has to have been made with. What is `None` may be anything. The processor and
/// the version of this program are always checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Expectation {
    /// SHA-256 of the kernel image.
    pub kernel_sha256: Option<[u8; 32]>,
    /// SHA-256 of the disk image.
    pub rootfs_sha256: Option<[u8; 32]>,
    /// Kernel command line, without the devices that the machine appends.
    pub cmdline: Option<String>,
    /// RAM in MiB.
    pub memory_mib: Option<u32>,
    /// Number of vCPUs.
    pub vcpus: Option<u8>,
}

impl Expectation {
    /// Compares with a snapshot's header.
    pub(super) fn check(&self, header: &FileHeader) -> Result<(), SnapshotError> {
        let origin = &header.origin;
        same_version(header)?;
        if let Some(expected) = &self.kernel_sha256 {
            same("kernel", &hex(&origin.kernel_sha256), &hex(expected))?;
        }
        if let Some(expected) = &self.rootfs_sha256 {
            let found = origin.rootfs_sha256.map_or_else(|| "none".to_owned(), |sha| hex(&sha));
            same("rootfs", &found, &hex(expected))?;
        }
        if let Some(expected) = &self.cmdline {
            same("command line", &origin.cmdline, expected)?;
        }
        if let Some(expected) = self.memory_mib {
            same("memory size in MiB", &origin.memory_mib.to_string(), &expected.to_string())?;
        }
        if let Some(expected) = self.vcpus {
            same("number of vCPUs", &header.vcpus.to_string(), &expected.to_string())?;
        }
        Ok(())
    }
}

/// Other versions may keep other states, or offer a guest other devices.
pub fn same_version(header: &FileHeader) -> Result<(), SnapshotError> {
    same("version of this program", header.vmm_version.as_str(), env!("CARGO_PKG_VERSION"))
}

/// Compares a snapshot's template with what this host would give to a guest, and the host that it was
/// captured on with this one.
pub fn check_host(template: &CpuidTemplate, host: &HostIdentity) -> Result<(), SnapshotError> {
    let kvm = kvm::open()?;
    check_processor(template, &CpuidTemplate::for_host(&kvm, template.vcpus())?)?;
    match host.difference(&HostIdentity::here(&kvm)?) {
        None => Ok(()),
        Some((what, snapshot, here)) => Err(SnapshotError::Mismatch { what, snapshot, here }),
    }
}

/// Compares a snapshot's template with another one.
pub fn check_processor(
    template: &CpuidTemplate,
    here: &CpuidTemplate,
) -> Result<(), SnapshotError> {
    same("processor", &Processor::of(template).to_string(), &Processor::of(here).to_string())?;
    match template.difference(here) {
        None => Ok(()),
        Some((what, snapshot, here)) => Err(SnapshotError::Mismatch { what, snapshot, here }),
    }
}

fn same<T: PartialEq + Display + ?Sized>(
    what: &str,
    snapshot: &T,
    here: &T,
) -> Result<(), SnapshotError> {
    if snapshot == here {
        return Ok(());
    }
    Err(SnapshotError::Mismatch {
        what: what.to_owned(),
        snapshot: snapshot.to_string(),
        here: here.to_string(),
    })
}
