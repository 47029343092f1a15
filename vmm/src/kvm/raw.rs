//! ioctls that `kvm-ioctls` does not wrap on x86, or wraps with an allocation per call.

use std::io;

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVMIO,
    kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1, kvm_dirty_log,
    kvm_dirty_log__bindgen_ty_1, kvm_enable_cap,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::{ioctl_iow_nr, ioctl_iowr_nr};

use super::KvmError;
use crate::kernel_call;
use crate::memory::{PAGE_BYTES, WORD_BITS};

ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);

/// Pages in one word of a dirty bitmap.
const PAGES_PER_WORD: u64 = WORD_BITS as u64;

/// Words of a dirty bitmap for a slot of `bytes` bytes.
pub fn dirty_words(bytes: u64) -> usize {
    bytes.div_ceil(PAGE_BYTES as u64).div_ceil(PAGES_PER_WORD) as usize
}

/// `KVM_GET_DIRTY_LOG` (api.rst 4.8): reads **and clears** the log of a slot of `bytes` bytes; after
/// [`enable_manual_dirty_log_protect`] it only reads. `bitmap` is overwritten; bit 0 of word 0 is the
/// slot's first page.
pub fn get_dirty_log(vm: &VmFd, slot: u32, bytes: u64, bitmap: &mut [u64]) -> Result<(), KvmError> {
    let failed = |source| KvmError::Ioctl { ioctl: "KVM_GET_DIRTY_LOG", source };
    if bitmap.len() != dirty_words(bytes) {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    let log = kvm_dirty_log {
        slot,
        padding1: 0,
        __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 { dirty_bitmap: bitmap.as_mut_ptr().cast() },
    };
    // SAFETY: the descriptor is a VM, and KVM writes one bit per page of the slot, rounded up to
    // whole 64-bit words, which is the length just checked.
    let call = || unsafe { ioctl_with_ref(vm, KVM_GET_DIRTY_LOG(), &log) };
    let result = kernel_call::timed("KVM_GET_DIRTY_LOG", call);
    if result == 0 { Ok(()) } else { Err(failed(io::Error::last_os_error())) }
}

/// True where [`enable_manual_dirty_log_protect`] works.
pub fn can_manually_protect_dirty_log(vm: &VmFd) -> bool {
    let modes = vm.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into());
    u32::try_from(modes).is_ok_and(|modes| modes & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE != 0)
}

/// Leaves it to [`clear_dirty_log`] to clear the log and to protect pages again
/// (`KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`, api.rst 7.10). What is in the log stays there.
pub fn enable_manual_dirty_log_protect(vm: &VmFd) -> Result<(), KvmError> {
    let capability = kvm_enable_cap {
        cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        args: [KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE.into(), 0, 0, 0],
        ..kvm_enable_cap::default()
    };
    vm.enable_cap(&capability).map_err(KvmError::ioctl("KVM_ENABLE_CAP"))
}

/// `KVM_CLEAR_DIRTY_LOG` (api.rst 4.117): takes the pages in `bitmap` out of the log of a slot of
/// `bytes` bytes and protects them again. `bitmap` begins with the page `first_word` * 64 of the
/// slot.
pub fn clear_dirty_log(
    vm: &VmFd,
    slot: u32,
    bytes: u64,
    first_word: usize,
    bitmap: &[u64],
) -> Result<(), KvmError> {
    let failed = |source| KvmError::Ioctl { ioctl: "KVM_CLEAR_DIRTY_LOG", source };
    let first_page = (first_word as u64).saturating_mul(PAGES_PER_WORD);
    let pages = (bitmap.len() as u64).saturating_mul(PAGES_PER_WORD);
    // Whole words, except at the end of the slot, where exactly its pages are wanted.
    let left = bytes.div_ceil(PAGE_BYTES as u64).saturating_sub(first_page);
    if pages >= left.saturating_add(PAGES_PER_WORD) {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    let num_pages = u32::try_from(pages.min(left)).map_err(|e| failed(io::Error::other(e)))?;
    let range = kvm_clear_dirty_log {
        slot,
        num_pages,
        first_page,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
            dirty_bitmap: bitmap.as_ptr().cast_mut().cast(),
        },
    };
    // SAFETY: the descriptor is a VM, and KVM reads one bit for each of `num_pages` pages, rounded
    // up to whole words: at most all of `bitmap`.
    let call = || unsafe { ioctl_with_ref(vm, KVM_CLEAR_DIRTY_LOG(), &range) };
    let result = kernel_call::timed("KVM_CLEAR_DIRTY_LOG", call);
    if result == 0 { Ok(()) } else { Err(failed(io::Error::last_os_error())) }
}
