//! What a machine is made of.

use std::sync::Arc;

use thiserror::Error;

use crate::boot::KernelImage;
use crate::devices::block::DiskImage;
use crate::memory::{MAX_MEMORY_MIB, MIN_MEMORY_MIB};

/// Most vCPUs of one machine.
pub const MAX_VCPUS: u8 = 8;
/// CIDs below this one are reserved (virtio 1.2, section 5.10.4).
pub const MIN_GUEST_CID: u32 = 3;

/// What a machine is made of.
#[derive(Clone)]
pub struct MachineConfig {
    /// Number of vCPUs, 1 to 8.
    pub vcpus: u8,
    /// RAM in MiB, 64 to 8192.
    pub memory_mib: u32,
    /// The kernel.
    pub kernel: Arc<KernelImage>,
    /// Kernel command line; the machine appends its own devices.
    pub cmdline: String,
    /// Base of the first disk, shared between machines; each writes to an overlay of its own.
    pub disk: Option<Arc<DiskImage>>,
    /// vsock address of the guest, 3 to `u32::MAX - 1`.
    pub guest_cid: u32,
    /// How many of the newest console bytes are kept.
    pub console_bytes: usize,
}

/// A configuration that cannot work.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Number of vCPUs.
    #[error("{0} vCPUs; choose 1 to {MAX_VCPUS}")]
    Vcpus(u8),
    /// Size of memory.
    #[error("{0} MiB of memory; choose {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB")]
    Memory(u32),
    /// vsock address.
    #[error("guest CID {0}; choose {MIN_GUEST_CID} or more, below {max}", max = u32::MAX)]
    GuestCid(u32),
}

impl MachineConfig {
    /// Checks every number against its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return Err(ConfigError::Vcpus(self.vcpus));
        }
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&self.memory_mib) {
            return Err(ConfigError::Memory(self.memory_mib));
        }
        if !(MIN_GUEST_CID..u32::MAX).contains(&self.guest_cid) {
            return Err(ConfigError::GuestCid(self.guest_cid));
        }
        Ok(())
    }
}
