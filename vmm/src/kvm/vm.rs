//! The VM descriptor: interrupt controllers, timer and memory slots.

use std::sync::Arc;

use kvm_bindings::{
    KVM_MEM_LOG_DIRTY_PAGES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use super::{KvmError, dirty_ring, msrs};
use crate::memory::{self, GuestRam, layout};

/// A KVM virtual machine with in-kernel interrupt controllers and its RAM attached.
pub struct Vm {
    fd: Arc<VmFd>,
    /// KVM reads and writes this mapping for as long as the VM exists.
    ram: Arc<GuestRam>,
    tracking: DirtyTracking,
}

/// How KVM says which pages a guest has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DirtyTracking {
    /// A bitmap of each memslot (api.rst 4.8): one bit per page of memory to look at.
    #[default]
    Log,
    /// A ring of each vCPU (api.rst 8.29): one entry per dirty page. Costs 256 KiB a vCPU.
    Ring,
}

/// What a VM is made with beside its RAM.
#[derive(Debug, Clone, Copy, Default)]
pub struct VmOptions {
    /// How dirty pages will be found.
    pub tracking: DirtyTracking,
    /// Finds them from the start, and closes MSRs, instead of with [`Vm::track_writes`] and
    /// [`Vm::close_msrs`] later.
    pub in_golden_state: bool,
}

impl Vm {
    /// Creates the VM, its PIC, I/O APIC, local APICs and PIT, and maps `ram` into it.
    pub fn create(kvm: &Kvm, ram: Arc<GuestRam>, options: VmOptions) -> Result<Self, KvmError> {
        let fd = kvm.create_vm().map_err(KvmError::ioctl("KVM_CREATE_VM"))?;
        // Both addresses must be set before the first vCPU exists (api.rst 4.14, 4.60).
        fd.set_identity_map_address(layout::KVM_IDENTITY_MAP)
            .map_err(KvmError::ioctl("KVM_SET_IDENTITY_MAP_ADDR"))?;
        fd.set_tss_address(layout::KVM_TSS).map_err(KvmError::ioctl("KVM_SET_TSS_ADDR"))?;
        if options.tracking == DirtyTracking::Ring {
            dirty_ring::enable(&fd)?;
        }
        let vm = Self { fd: Arc::new(fd), ram, tracking: options.tracking };
        // First of all: it waits for an SRCU grace period, which is only short when there was none
        // just before.
        if options.in_golden_state {
            vm.close_msrs()?;
        }
        // Before the interrupt controllers: registering their I/O ranges starts an RCU grace
        // period that a new memory slot would have to wait for, about 8 ms.
        vm.map_memory(options.in_golden_state)?;
        vm.fd.create_irq_chip().map_err(KvmError::ioctl("KVM_CREATE_IRQCHIP"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        vm.fd.create_pit2(pit).map_err(KvmError::ioctl("KVM_CREATE_PIT2"))?;
        Ok(vm)
    }

    /// From here on the guest can only write MSRs that a reset puts back.
    pub fn close_msrs(&self) -> Result<(), KvmError> {
        msrs::close(&self.fd)
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
