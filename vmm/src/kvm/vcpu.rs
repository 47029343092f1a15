//! A vCPU with its dirty ring.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::dirty_ring::DirtyRing;
use super::{DirtyEntry, DirtyTracking, KvmError, Vm};
use crate::arch::{ArchVcpu, CpuidTemplate};

/// A vCPU. What can be done with its registers is the architecture's: see [`ArchVcpu`].
pub struct Vcpu {
    pub(super) arch: ArchVcpu,
    pub(super) ring: Option<DirtyRing>,
    /// The processor that starts the guest's kernel. The others wait for it to start them.
    pub(super) is_bootstrap: bool,
}

impl Vcpu {
    /// Creates vCPU `index` of `vm`, and its dirty ring where the VM finds dirty pages with rings.
    ///
    /// # Errors
    ///
    /// KVM refuses the vCPU, its CPUID, or the mapping of the ring.
    pub fn create(vm: &Vm, index: u8, cpuid: &CpuidTemplate) -> Result<Self, KvmError> {
        let arch = ArchVcpu::create(vm.fd(), index, cpuid)?;
        let ring = match vm.tracking() {
            DirtyTracking::Ring => Some(DirtyRing::of(Arc::clone(vm.fd()), &arch.fd)?),
            DirtyTracking::Log => None,
        };
        Ok(Self { arch, ring, is_bootstrap: index == 0 })
    }

    /// Moves the pages in this vCPU's dirty ring, if it has one, to `pages`. The vCPU must be out
    /// of the guest. The caller resets the rings afterwards ([`super::reset_rings`]).
    ///
    /// # Errors
    ///
    /// The ring was written on after it was full.
    pub fn drain_ring(&mut self, pages: &mut Vec<DirtyEntry>) -> Result<(), KvmError> {
        self.ring.as_mut().map_or(Ok(()), |ring| ring.drain(pages))
    }
}

impl Deref for Vcpu {
    type Target = ArchVcpu;

    fn deref(&self) -> &ArchVcpu {
        &self.arch
    }
}

impl DerefMut for Vcpu {
    fn deref_mut(&mut self) -> &mut ArchVcpu {
        &mut self.arch
    }
}
