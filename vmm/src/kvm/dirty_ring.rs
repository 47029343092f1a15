//! The dirty ring: pages a vCPU has written, one entry each (api.rst 8.29). Finding a few dirty
//! pages in much memory takes a few steps, where the dirty log takes one bit per page.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{io, ptr};

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_DIRTY_LOG_PAGE_OFFSET, KVMIO, kvm_dirty_gfn, kvm_enable_cap,
};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

use super::KvmError;
use crate::kernel_call;
use crate::memory::PAGE_BYTES;

ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xc7);

/// Entries of one ring: 256 KiB, enough for 64 MiB of dirty pages between two resets. A ring that
/// fills up makes the vCPU exit, and what it holds is put aside.
const ENTRIES: usize = 16_384;
const RING_BYTES: usize = ENTRIES * size_of::<kvm_dirty_gfn>();

/// `KVM_DIRTY_GFN_F_DIRTY` and `KVM_DIRTY_GFN_F_RESET`.
const DIRTY: u32 = 1;
const RESET: u32 = 2;

/// A page in the ring: memslot and page number within it.
pub type Entry = (u32, u64);

/// Switches a VM from the dirty log to dirty rings. Must come before the first vCPU.
pub fn enable(vm: &VmFd) -> Result<(), KvmError> {
    let mut cap = kvm_enable_cap { cap: KVM_CAP_DIRTY_LOG_RING_ACQ_REL, ..Default::default() };
    cap.args[0] = RING_BYTES as u64;
    vm.enable_cap(&cap).map_err(KvmError::ioctl("KVM_ENABLE_CAP(DIRTY_LOG_RING_ACQ_REL)"))
}

/// One vCPU's ring.
pub struct DirtyRing {
    vm: Arc<VmFd>,
    entries: *mut kvm_dirty_gfn,
    /// Where the next entry will be.
    next: usize,
    /// Taken out because the ring was full.
    aside: Vec<Entry>,
    /// KVM keeps some entries free and makes the vCPU exit before. A ring without any was written
    /// on regardless: software KVM runs a long stretch of guest code before it looks.
    overran: bool,
}

// SAFETY: the mapping belongs to this value; the kernel writes to it as the protocol below allows.
unsafe impl Send for DirtyRing {}

impl DirtyRing {
    /// Maps the ring of `vcpu`.
    pub fn of(vm: Arc<VmFd>, vcpu: &VcpuFd) -> Result<Self, KvmError> {
        // SAFETY: a new mapping of the vCPU's descriptor at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                RING_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                libc::off_t::from(KVM_DIRTY_LOG_PAGE_OFFSET) * libc::off_t::from(PAGE_BYTES as u32),
            )
        };
        if ptr::eq(address, libc::MAP_FAILED) {
            let source = io::Error::last_os_error();
            return Err(KvmError::Ioctl { ioctl: "mapping a dirty ring", source });
        }
        Ok(Self { vm, entries: address.cast(), next: 0, aside: Vec::new(), overran: false })
    }

    /// The vCPU cannot go on because its ring is full: puts its entries aside.
    pub fn make_room(&mut self) -> Result<(), KvmError> {
        let mut aside = std::mem::take(&mut self.aside);
        self.take(&mut aside);
        self.aside = aside;
        reset_rings(&self.vm).map(|_| ())
    }

    /// Moves all entries to `pages`. [`reset_rings`] has to follow before the content of those
    /// pages is looked at. The vCPU must be out of the guest. An error is final: entries are lost,
    /// and kernel and program disagree about where the next one is.
    pub fn drain(&mut self, pages: &mut Vec<Entry>) -> Result<(), KvmError> {
        pages.append(&mut self.aside);
        self.take(pages);
        if self.overran { Err(KvmError::DirtyRingOverran) } else { Ok(()) }
    }

    fn take(&mut self, pages: &mut Vec<Entry>) {
        for _ in 0..ENTRIES {
            // SAFETY: the index is below the number of entries that were mapped.
            let entry = unsafe { self.entries.add(self.next % ENTRIES) };
            // SAFETY: the flags are an aligned u32 inside the mapping, which the kernel accesses
            // atomically, with the ordering the capability is named after.
            let flags = unsafe { AtomicU32::from_ptr(&raw mut (*entry).flags) };
            if flags.load(Ordering::Acquire) & (DIRTY | RESET) != DIRTY {
                return;
            }
            // SAFETY: the kernel leaves an entry alone between marking it dirty and seeing it
            // marked for reset.
            let (slot, page) = unsafe { ((*entry).slot, (*entry).offset) };
            pages.push((slot, page));
            flags.store(RESET, Ordering::Release);
            self.next = (self.next + 1) % ENTRIES;
        }
        self.overran = true;
    }
}

impl Drop for DirtyRing {
    fn drop(&mut self) {
        // SAFETY: mapped by `of` with this length; nothing refers to it any more.
        unsafe { libc::munmap(self.entries.cast(), RING_BYTES) };
    }
}

/// `KVM_RESET_DIRTY_RINGS`: lets the guest's next write to every page that was taken out of a ring
/// be noticed again. Returns the number of those pages.
pub fn reset_rings(vm: &VmFd) -> Result<u32, KvmError> {
    // SAFETY: the descriptor is a VM and the ioctl takes no argument.
    let call = || unsafe { ioctl(vm, KVM_RESET_DIRTY_RINGS()) };
    let result = kernel_call::timed("KVM_RESET_DIRTY_RINGS", call);
    u32::try_from(result).map_err(|_| {
        let source = io::Error::last_os_error();
        KvmError::Ioctl { ioctl: "KVM_RESET_DIRTY_RINGS", source }
    })
}
