//! Keeps KVM in use while jobs run, for the sake of the emulator.
//!
//! Linux rewrites code of its own when the first virtual machine comes and when the last one goes:
//! `preempt_notifier_key` makes every task switch a little cheaper while there is none, and some
//! more branches of KVM depend on whether any vCPU is without an APIC or has it switched off. For
//! a moment there is a breakpoint where the code changes. QEMU before 8.1 may translate that
//! breakpoint on one processor while another removes it, and then never looks again: both
//! processors trap for ever and the machine stands still. With virtual machines that stay from the
//! first job to the last, none of that code changes while anything else runs.

use anyhow::{Context, Result};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

/// Virtual machines that never run.
pub struct InUse {
    _machines: [(VmFd, VcpuFd); 2],
}

impl InUse {
    /// One machine with an APIC, which is off until its guest switches it on, and one without.
    pub fn start() -> Result<Self> {
        let kvm = Kvm::new().context("opening /dev/kvm")?;
        let machine = |with_apic: bool| {
            let vm = kvm.create_vm()?;
            if with_apic {
                vm.create_irq_chip()?;
            }
            let vcpu = vm.create_vcpu(0)?;
            Ok::<_, kvm_ioctls::Error>((vm, vcpu))
        };
        let machines = [machine(true), machine(false)];
        let [with, without] = machines.map(|m| m.context("creating a virtual machine"));
        Ok(Self { _machines: [with?, without?] })
    }
}
