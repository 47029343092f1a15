//! What separates two commands in the processor: branch predictions made by one must not steer the
//! next.
//!
//! KVM issues the barrier when a processor goes from one vCPU to another. Between two commands in one
//! machine the vCPU stays the same, so the barrier is asked for here, by the thread that enters the
//! vCPU: the barrier works on the processor that executes it. The L1 data cache is left to KVM, which
//! empties it before an entry on processors that need it (`kvm_intel.vmentry_l1d_flush`).

use std::sync::OnceLock;

use kvm_bindings::{Msrs, kvm_msr_entry};

use super::msrs;
use super::vcpu::ArchVcpu;
use crate::ioctl::{self, KvmError};

/// Bit 0 of `PRED_CMD`: the barrier.
const IBPB: u64 = 1;

/// Whether this host's processors have the barrier; unknown until it was first asked for.
static AVAILABLE: OnceLock<bool> = OnceLock::new();

impl ArchVcpu {
    /// From the next entry on, the vCPU executes another command than before.
    pub(super) fn next_command(&mut self) {
        self.barrier_due = true;
    }

    /// Has the processor forget the branches of the command before, if there was one since the last
    /// call. Must be called by the thread that enters the vCPU, right before it does.
    ///
    /// # Errors
    ///
    /// KVM refuses the call. A processor without the barrier is no error.
    pub fn separate_commands(&mut self) -> Result<(), KvmError> {
        if !std::mem::take(&mut self.barrier_due) || AVAILABLE.get() == Some(&false) {
            return Ok(());
        }
        let command = command()?;
        // A processor without it makes KVM write no MSR, which is no error of the call.
        let written = ioctl::call("KVM_SET_MSRS(PRED_CMD)", || self.fd.set_msrs(&command))?;
        AVAILABLE.get_or_init(|| {
            if written == 0 {
                tracing::info!("this processor has no indirect branch prediction barrier");
            }
            written > 0
        });
        Ok(())
    }

    /// True when the next entry begins another command.
    #[cfg(test)]
    pub fn is_barrier_due(&self) -> bool {
        self.barrier_due
    }
}

/// A write by the host, which is not bound by the guest's CPUID: KVM executes the command at once.
fn command() -> Result<Msrs, KvmError> {
    msrs::collection(&[kvm_msr_entry { index: msrs::PRED_CMD, data: IBPB, ..Default::default() }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::x86_64::CpuidTemplate;
    use crate::kernel_call::recorded;

    fn asked_for(vcpu: &mut ArchVcpu) -> Vec<&'static str> {
        let (result, calls) = recorded(|| vcpu.separate_commands());
        result.unwrap();
        calls.iter().map(|call| call.name).collect()
    }

    /// On a processor with IBPB the barrier must also be accepted.
    #[test]
    fn the_barrier_is_asked_for_once_a_command() {
        let Ok(kvm) = crate::kvm::open() else { return };
        let vm = kvm.create_vm().unwrap();
        let cpuid = CpuidTemplate::for_host(&kvm, 1).unwrap();
        vm.create_irq_chip().unwrap();
        let mut vcpu = ArchVcpu::create(&vm, 0, &cpuid).unwrap();
        assert_eq!(asked_for(&mut vcpu), [""; 0]);
        vcpu.next_command();
        let asked = asked_for(&mut vcpu);
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let has_it = info.split_whitespace().any(|flag| flag == "ibpb");
        println!(
            "needs a processor with IBPB: this one has {}",
            if has_it { "it" } else { "none" }
        );
        if has_it {
            assert_eq!(AVAILABLE.get(), Some(&true));
            assert_eq!(asked, ["KVM_SET_MSRS(PRED_CMD)"]);
        }
        assert!(AVAILABLE.get().is_some());
        assert_eq!(asked_for(&mut vcpu), [""; 0], "the same command goes on");
    }
}
