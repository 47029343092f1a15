//! What a machine is made of.

use std::ops::RangeInclusive;
use std::sync::Arc;

use thiserror::Error;

use crate::boot::KernelImage;
use crate::devices::block::DiskImage;
use crate::devices::vsock::MIN_GUEST_CID;
use crate::kvm::MAX_VCPUS;
use crate::memory::{MAX_MEMORY_MIB, MIN_MEMORY_MIB};

/// What a machine is made of.
#[derive(Clone)]
#[non_exhaustive]
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
#[non_exhaustive]
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

/// Makes a [`MachineConfig`] from a kernel and what differs from the usual machine: one vCPU, 128 MiB,
/// no disk, an empty kernel command line, CID 3 and the newest 64 KiB of the console.
#[derive(Clone)]
#[must_use]
pub struct MachineConfigBuilder {
    config: MachineConfig,
}

impl MachineConfigBuilder {
    /// Number of vCPUs, 1 to 8.
    pub fn vcpus(mut self, vcpus: u8) -> Self {
        self.config.vcpus = vcpus;
        self
    }

    /// RAM in MiB, 64 to 8192.
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.config.memory_mib = memory_mib;
        self
    }

    /// Kernel command line; the machine appends its own devices.
    pub fn cmdline(mut self, cmdline: impl Into<String>) -> Self {
        self.config.cmdline = cmdline.into();
        self
    }

    /// Base of the first disk. Machines share it, and each writes to an overlay of its own.
    pub fn disk(mut self, disk: impl Into<Arc<DiskImage>>) -> Self {
        self.config.disk = Some(disk.into());
        self
    }

    /// vsock address of the guest, 3 to `u32::MAX - 1`.
    pub fn guest_cid(mut self, guest_cid: u32) -> Self {
        self.config.guest_cid = guest_cid;
        self
    }

    /// How many of the newest console bytes are kept.
    pub fn console_bytes(mut self, console_bytes: usize) -> Self {
        self.config.console_bytes = console_bytes;
        self
    }

    /// The configuration.
    ///
    /// # Errors
    ///
    /// A number is out of its range; the error names the range.
    pub fn build(self) -> Result<MachineConfig, ConfigError> {
        self.config.check()?;
        Ok(self.config)
    }
}

impl MachineConfig {
    /// How many vCPUs a machine can have.
    pub const VCPUS: RangeInclusive<u8> = 1..=MAX_VCPUS;
    /// How much RAM a machine can have, in MiB.
    pub const MEMORY_MIB: RangeInclusive<u32> = MIN_MEMORY_MIB..=MAX_MEMORY_MIB;
    /// What a guest's vsock address can be: smaller ones are reserved, the largest number is the
    /// wildcard.
    pub const GUEST_CID: RangeInclusive<u32> = MIN_GUEST_CID..=u32::MAX - 1;

    /// Begins with the usual machine for `kernel`: see [`MachineConfigBuilder`].
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let kernel = vmm::micro::kernel(1)?;
    /// let config = vmm::MachineConfig::builder(kernel).memory_mib(64).build()?;
    /// assert_eq!((config.vcpus, config.memory_mib), (1, 64));
    /// let kernel = vmm::micro::kernel(1)?;
    /// let error = vmm::MachineConfig::builder(kernel).vcpus(9).build().err();
    /// assert_eq!(error, Some(vmm::ConfigError::Vcpus(9)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(kernel: impl Into<Arc<KernelImage>>) -> MachineConfigBuilder {
        let config = Self {
            vcpus: 1,
            memory_mib: 128,
            kernel: kernel.into(),
            cmdline: String::new(),
            disk: None,
            guest_cid: MIN_GUEST_CID,
            console_bytes: 64 << 10,
        };
        MachineConfigBuilder { config }
    }

    /// Checks every number against its range.
    ///
    /// # Errors
    ///
    /// A number is out of its range; the error names the range.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !Self::VCPUS.contains(&self.vcpus) {
            return Err(ConfigError::Vcpus(self.vcpus));
        }
        if !Self::MEMORY_MIB.contains(&self.memory_mib) {
            return Err(ConfigError::Memory(self.memory_mib));
        }
        if !Self::GUEST_CID.contains(&self.guest_cid) {
            return Err(ConfigError::GuestCid(self.guest_cid));
        }
        Ok(())
    }
}
