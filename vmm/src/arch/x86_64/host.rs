//! What of a host a captured guest depends on, beside the processor that CPUID describes.

use std::sync::OnceLock;

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::Kvm;
use serde::{Deserialize, Serialize};

use super::{msrs, tsc};
use crate::ioctl::{self, KvmError};

/// Revision of the microcode (Intel SDM volume 4, `IA32_BIOS_SIGN_ID`; AMD's patch level).
const MICROCODE: u32 = 0x8b;
/// `IA32_ARCH_CAPABILITIES`: which flaws the processor does not have.
const CAPABILITIES: u32 = 0x10a;

/// A host, as far as a guest keeps what it found out at its boot: which mitigations it chose, and how
/// fast its clock runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostIdentity {
    /// Release of the kernel.
    kernel: String,
    /// Revision of the microcode; `None` where KVM does not tell.
    microcode: Option<u64>,
    /// What the processor says that it is not vulnerable to; `None` where it says nothing.
    capabilities: Option<u64>,
    /// Frequency of the time-stamp counter.
    tsc_khz: u64,
}

impl HostIdentity {
    /// This host. KVM is asked once in the life of the process.
    ///
    /// # Errors
    ///
    /// KVM refuses a VM with a vCPU, or to tell its frequency.
    pub fn here(kvm: &Kvm) -> Result<Self, KvmError> {
        static HERE: OnceLock<HostIdentity> = OnceLock::new();
        if let Some(known) = HERE.get() {
            return Ok(known.clone());
        }
        let found = Self::ask(kvm)?;
        Ok(HERE.get_or_init(|| found).clone())
    }

    fn ask(kvm: &Kvm) -> Result<Self, KvmError> {
        let vm = ioctl::retried("KVM_CREATE_VM", || kvm.create_vm())?;
        let vcpu = vm.create_vcpu(0).map_err(KvmError::ioctl("KVM_CREATE_VCPU"))?;
        let khz = vcpu.get_tsc_khz().map_err(KvmError::ioctl("KVM_GET_TSC_KHZ"))?;
        Ok(Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            microcode: feature(kvm, MICROCODE)?,
            capabilities: feature(kvm, CAPABILITIES)?,
            tsc_khz: u64::from(khz),
        })
    }

    /// The first thing in which the host `here` differs, and both values.
    pub fn difference(&self, here: &Self) -> Option<(String, String, String)> {
        let number = |value: Option<u64>| value.map_or("unknown".into(), |n| format!("{n:#x}"));
        let named = |what: &str, one: String, other: String| Some((what.to_owned(), one, other));
        if self.kernel != here.kernel {
            named("host kernel", self.kernel.clone(), here.kernel.clone())
        } else if self.microcode != here.microcode {
            named("microcode", number(self.microcode), number(here.microcode))
        } else if self.capabilities != here.capabilities {
            named("ARCH_CAPABILITIES", number(self.capabilities), number(here.capabilities))
        } else if !tsc::same_frequency(self.tsc_khz, here.tsc_khz) {
            let khz = |khz: u64| format!("{khz} kHz");
            named("TSC frequency", khz(self.tsc_khz), khz(here.tsc_khz))
        } else {
            None
        }
    }
}

/// What the host's processor has in an MSR that describes it; `None` where KVM does not tell.
fn feature(kvm: &Kvm, index: u32) -> Result<Option<u64>, KvmError> {
    let mut asked: Msrs = msrs::collection(&[kvm_msr_entry { index, ..kvm_msr_entry::default() }])?;
    // KVM tells none where it does not know the MSR, or does not let it be asked for.
    match kvm.get_msrs(&mut asked) {
        Ok(1) => Ok(asked.as_slice().first().map(|entry| entry.data)),
        Ok(_) | Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_itself_and_another_kernel_microcode_or_clock_is_named() {
        let Ok(kvm) = crate::kvm::open() else { return };
        let here = HostIdentity::ask(&kvm).unwrap();
        assert!(here.tsc_khz > 0 && !here.kernel.is_empty());
        assert_eq!(HostIdentity::here(&kvm).unwrap().difference(&here), None);
        let microcode = Some(here.microcode.unwrap_or(0) + (1 << 32));
        let capabilities = Some(here.capabilities.unwrap_or(0) ^ 1);
        let others = [
            (HostIdentity { kernel: "6.1.0".into(), ..here.clone() }, "host kernel"),
            (HostIdentity { microcode, ..here.clone() }, "microcode"),
            (HostIdentity { capabilities, ..here.clone() }, "ARCH_CAPABILITIES"),
            (HostIdentity { tsc_khz: here.tsc_khz * 2, ..here.clone() }, "TSC frequency"),
        ];
        for (other, what) in others {
            let (named, snapshot, now) = other.difference(&here).unwrap();
            assert_eq!(named, what);
            assert_ne!(snapshot, now);
        }
    }
}
