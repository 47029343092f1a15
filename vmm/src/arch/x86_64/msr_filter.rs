//! The filter behind which a captured guest can write only MSRs that a reset restores.

use kvm_ioctls::VmFd;

use super::msrs;
use super::vcpu_state::VcpuImage;
use crate::ioctl::KvmError;

/// From here on guests in the state of `vcpus` can write only MSRs that a reset of each of them puts
/// back. Anything else is a general-protection fault to them.
///
/// # Errors
///
/// KVM refuses the filter.
pub fn install_msr_filter(vm: &VmFd, vcpus: &[VcpuImage]) -> Result<(), KvmError> {
    let Some((first, others)) = vcpus.split_first() else { return msrs::open_only(vm, &[]) };
    let everywhere = |index: &&u32| others.iter().all(|other| other.open().contains(index));
    let open: Vec<u32> = first.open().iter().filter(everywhere).copied().collect();
    msrs::open_only(vm, &open)
}
