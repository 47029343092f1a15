//! A captured machine.

use std::fmt;
use std::sync::{Arc, MutexGuard, OnceLock};

use serde::{Deserialize, Serialize};

use crate::arch::{CpuidTemplate, HostIdentity, MpState, VcpuImage, VmState, host_tsc, msr_list};
use crate::devices::block::{DiskError, DiskImage};
use crate::devices::virtio::model::VirtioState;
use crate::devices::vsock::VsockDevice;
use crate::devices::{DeviceSet, DeviceStates, MachineShape};
use crate::kvm::{Vcpu, Vm};
use crate::memory::{GoldenMemory, MemoryError};

use super::error::ResetError;
use super::page_set::PageSet;

/// How far away a timer's deadline must be at a capture, in milliseconds: a reset takes its time
/// between writing the deadline and writing the timer, and longer on a host that is busy.
const MIN_DEADLINE_MS: u64 = 5;

/// What a machine was made of that its golden state does not say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// RAM in MiB.
    pub memory_mib: u32,
    /// SHA-256 of the kernel image.
    pub kernel_sha256: [u8; 32],
    /// SHA-256 of the disk image the machine was made with, if it has a disk.
    pub rootfs_sha256: Option<[u8; 32]>,
    /// Kernel command line, without the devices that the machine appends.
    pub cmdline: String,
    /// vsock address of the guest.
    pub guest_cid: u32,
    /// Size of the console ring.
    pub console_bytes: usize,
}

/// A captured machine: what a reset goes back to, and what forks start from. Immutable.
pub struct Golden {
    pub(crate) memory: GoldenMemory,
    pub(crate) vcpus: Vec<VcpuImage>,
    pub(crate) vm: VmState,
    pub(crate) devices: DeviceStates,
    pub(crate) disk: Option<Arc<DiskImage>>,
    pub(crate) cpuid: Arc<CpuidTemplate>,
    pub(crate) origin: Origin,
    /// False where KVM cannot give a guest another time-stamp counter than the host's: software
    /// KVM, which runs no Linux either.
    pub(crate) tsc_offset_works: bool,
    /// The host that captured it.
    pub(crate) host: HostIdentity,
    /// Version of this crate that captured it.
    pub(crate) made_by: String,
    /// See [`Golden::hash`].
    pub(crate) hash: OnceLock<[u8; 32]>,
    /// See [`Golden::set_hot_pages`]. No part of the state.
    pub(crate) hot_pages: OnceLock<PageSet>,
}

impl Golden {
    /// Captures a machine that stands still, and makes it the first one to run on top of what was
    /// captured: its RAM becomes a private mapping of golden memory, its disk an overlay of the
    /// golden disk, and KVM logs from here on what the guest writes.
    pub(crate) fn capture(
        vm: &Vm,
        vcpus_here: &[MutexGuard<'_, Vcpu>],
        devices: &DeviceSet,
        cpuid: Arc<CpuidTemplate>,
        origin: Origin,
    ) -> Result<Self, ResetError> {
        let kvm = crate::kvm::open()?;
        let (wanted, host) = (msr_list(&kvm)?, HostIdentity::here(&kvm)?);
        // One reading for all, so that their counters keep their distance, which is none.
        let now = host_tsc();
        let vcpus = vcpus_here
            .iter()
            .map(|vcpu| VcpuImage::new(vcpu.capture(&wanted, now)?))
            .collect::<Result<Vec<_>, _>>()?;
        for (vcpu, image) in vcpus_here.iter().zip(&vcpus) {
            if image.state().is_due_within(vcpu.tsc_khz()? * MIN_DEADLINE_MS) {
                return Err(ResetError::DeadlineNear);
            }
        }
        let tsc_offset_works = match vcpus_here.first() {
            Some(vcpu) => vcpu.tsc_can_be_moved()?,
            None => false,
        };
        let vm_state = vm.capture()?;
        let device_state = devices.capture()?;
        let memory = GoldenMemory::capture(vm.ram())?;
        let disk = devices.freeze_disk()?;
        memory.map_into(vm.ram())?;
        vm.track_writes()?;
        vm.install_msr_filter(&vcpus)?;
        Ok(Self {
            memory,
            vcpus,
            vm: vm_state,
            devices: device_state,
            disk,
            cpuid,
            origin,
            tsc_offset_works,
            host,
            made_by: env!("CARGO_PKG_VERSION").to_owned(),
            hash: OnceLock::new(),
            hot_pages: OnceLock::new(),
        })
    }

    /// Names the pages that nearly every command writes. From the next reset on, machines in this
    /// state keep them writable, which spares the guest a fault for each page, and every reset
    /// restores them, written or not. The first set stays: a second call changes nothing. The call
    /// has no effect where KVM cannot leave single pages writable, or where dirty rings are used.
    ///
    /// Take the set from commands you trust
    /// ([`Machine::last_reset_pages`](crate::Machine::last_reset_pages)): how long a write takes tells
    /// a guest whether a page is in it.
    pub fn set_hot_pages(&self, pages: PageSet) {
        self.hot_pages.get_or_init(|| pages);
    }

    /// The pages that [`Golden::set_hot_pages`] named; `None` before.
    pub fn hot_pages(&self) -> Option<&PageSet> {
        self.hot_pages.get()
    }

    /// RAM of a machine in this state, in MiB.
    pub fn memory_mib(&self) -> u32 {
        self.origin.memory_mib
    }

    /// SHA-256 of its disk's content, computed once; `None` without a disk.
    ///
    /// # Errors
    ///
    /// The disk cannot be read.
    pub fn disk_sha256(&self) -> Result<Option<[u8; 32]>, DiskError> {
        self.disk.as_ref().map(|disk| disk.sha256()).transpose()
    }

    /// Root of the Merkle tree over the 4096-byte blocks of its disk: SHA-256 in the form of RFC
    /// 6962 2.1, a leaf behind 0x00 and a node behind 0x01. Computed once; `None` without a disk.
    ///
    /// # Errors
    ///
    /// The disk cannot be read.
    pub fn disk_root(&self) -> Result<Option<[u8; 32]>, DiskError> {
        self.disk.as_ref().map(|disk| disk.root()).transpose()
    }

    /// Root of the Merkle tree over the 4096-byte pages of its memory, in the form of
    /// [`Golden::disk_root`]. Computed once: from then on every page has a hash of its own.
    ///
    /// # Errors
    ///
    /// Golden memory cannot be read.
    pub fn memory_root(&self) -> Result<[u8; 32], ResetError> {
        let failed = |e| ResetError::Memory(MemoryError::Golden(e));
        self.memory.sealed().root().map_err(failed)
    }

    /// Blocks of 4096 bytes of its disk; none without one.
    pub fn disk_blocks(&self) -> usize {
        self.disk.as_ref().map_or(0, |disk| disk.memory().blocks())
    }

    /// Pages of its memory.
    pub fn memory_pages(&self) -> usize {
        self.memory.sealed().blocks()
    }

    /// Size of its disk; `None` without one.
    pub fn disk_bytes(&self) -> Option<u64> {
        self.disk.as_ref().map(|disk| disk.length())
    }

    /// What its vCPUs were doing, in order.
    pub fn run_states(&self) -> Vec<MpState> {
        self.vcpus.iter().map(|vcpu| vcpu.state().run_state()).collect()
    }

    /// Ports of the vsock connections that are open in it, the guest's first: what
    /// [`VsockHost::reattach`](crate::VsockHost::reattach) takes.
    pub fn connections(&self) -> Vec<(u32, u32)> {
        let state = self.devices.find::<VirtioState<VsockDevice>>();
        state.map_or_else(Vec::new, |state| state.device().connections())
    }

    /// What decides which devices a machine in this state has.
    pub(crate) fn shape(&self) -> MachineShape {
        MachineShape { has_disk: self.disk.is_some(), guest_cid: self.origin.guest_cid }
    }

    /// Number of vCPUs of a machine in this state.
    pub fn vcpus(&self) -> usize {
        self.vcpus.len()
    }
}

impl fmt::Debug for Golden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Golden")
            .field("memory_mib", &self.origin.memory_mib)
            .field("vcpus", &self.vcpus.len())
            .finish_non_exhaustive()
    }
}
