//! The VM: its descriptor, its memory slots and the state beside its vCPUs.

use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use super::{KvmError, dirty_ring};
use crate::arch::{self, VcpuImage, VmState};
use crate::ioctl;
use crate::memory::{self, GuestRam};

/// Most vCPUs of one machine.
pub const MAX_VCPUS: u8 = 8;

/// A KVM virtual machine with in-kernel interrupt controllers and its RAM attached.
pub struct Vm {
    fd: Arc<VmFd>,
    /// The mapping that KVM reads and writes for as long as the VM exists.
    ram: Arc<GuestRam>,
    tracking: DirtyTracking,
}

/// How KVM says which pages a guest has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum DirtyTracking {
    /// A bitmap of each memslot (api.rst 4.8): one bit per page of memory to look at.
    #[default]
    Log,
    /// A ring of each vCPU (api.rst 8.29): one entry per dirty page. Costs 256 KiB a vCPU.
    Ring,
}

/// What a VM is made with beside its RAM.
#[derive(Clone, Copy, Default)]
pub struct VmOptions<'a> {
    /// How dirty pages will be found.
    pub tracking: DirtyTracking,
    /// The vCPUs of the golden state that the VM begins in, if it does. KVM logs dirty pages and filters
    /// MSRs from the start then, and [`Vm::track_writes`] and [`Vm::install_msr_filter`] are not called
    /// later.
    pub golden: Option<&'a [VcpuImage]>,
}

impl Vm {
    /// Creates the VM, its interrupt controllers and timer, and maps `ram` into it.
    ///
    /// # Errors
    ///
    /// KVM refuses the VM, the way dirty pages are found, the MSR filter, a memory slot or an
    /// interrupt controller.
    pub fn create(kvm: &Kvm, ram: Arc<GuestRam>, options: VmOptions<'_>) -> Result<Self, KvmError> {
        let fd = ioctl::retried("KVM_CREATE_VM", || kvm.create_vm())?;
        arch::reserve_pages(&fd)?;
        arch::close_side_doors(&fd)?;
        if options.tracking == DirtyTracking::Ring {
            dirty_ring::enable(&fd)?;
        }
        let vm = Self { fd: Arc::new(fd), ram, tracking: options.tracking };
        // First of all: it waits for an SRCU grace period, which is only short when there was none
        // just before.
        if let Some(vcpus) = options.golden {
            vm.install_msr_filter(vcpus)?;
        }
        // Before the interrupt controllers: registering their I/O ranges starts an RCU grace
        // period that a new memory slot would have to wait for, about 8 ms.
        vm.map_memory(options.golden.is_some())?;
        arch::create_interrupt_controllers(&vm.fd)?;
        Ok(vm)
    }

    /// From here on the guest can only write model-specific registers that a reset to the state of
    /// `vcpus` restores.
    ///
    /// # Errors
    ///
    /// KVM refuses the filter.
    pub fn install_msr_filter(&self, vcpus: &[VcpuImage]) -> Result<(), KvmError> {
        arch::install_msr_filter(&self.fd, vcpus)
    }

    /// Reads the state of interrupt controllers, timer and clock. No vCPU may run.
    ///
    /// # Errors
    ///
    /// KVM refuses to tell.
    pub fn capture(&self) -> Result<VmState, KvmError> {
        Ok(self.read_back()?.0)
    }

    /// Reads the state of interrupt controllers, timer and clock, and whether the host's counters
    /// are the same on all processors. No vCPU may run.
    ///
    /// # Errors
    ///
    /// KVM refuses to tell.
    pub fn read_back(&self) -> Result<(VmState, bool), KvmError> {
        VmState::read(&self.fd)
    }

    /// Restores interrupt controllers, timer and clock. No vCPU may run.
    ///
    /// # Errors
    ///
    /// KVM refuses a part. The parts before it have been written.
    pub fn restore(&self, state: &VmState) -> Result<(), KvmError> {
        state.restore(&self.fd)
    }

    /// The VM descriptor, shared with interrupt lines.
    pub fn fd(&self) -> &Arc<VmFd> {
        &self.fd
    }

    /// How dirty pages are found.
    pub fn tracking(&self) -> DirtyTracking {
        self.tracking
    }

    /// The guest's RAM.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// Lets KVM log which pages the guest writes, beginning with none.
    ///
    /// # Errors
    ///
    /// KVM refuses a memory slot.
    pub fn track_writes(&self) -> Result<(), KvmError> {
        self.map_memory(true)
    }

    fn map_memory(&self, tracking: bool) -> Result<(), KvmError> {
        for (slot, region) in self.ram.iter().enumerate() {
            let start = region.start_addr();
            let address = memory::host_address(&self.ram, start).map_err(|e| KvmError::Ioctl {
                ioctl: "KVM_SET_USER_MEMORY_REGION",
                source: std::io::Error::other(e),
            })?;
            let slot = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: if tracking { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
                guest_phys_addr: start.raw_value(),
                memory_size: region.len(),
                userspace_addr: address,
            };
            // SAFETY: the range is a mapping owned by `self.ram`, which this struct keeps alive
            // for as long as the VM descriptor, and slots do not overlap.
            unsafe { self.fd.set_user_memory_region(slot) }
                .map_err(KvmError::ioctl("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }
}
