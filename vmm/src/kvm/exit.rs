//! One entry of a vCPU into the guest, and the exit that ended it.

use kvm_bindings::KVM_EXIT_DIRTY_RING_FULL;
use kvm_ioctls::VcpuExit;

use super::Vcpu;

/// Why the guest came back and cannot simply continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitOutcome {
    /// The access was handled; enter again.
    Continue,
    /// A signal or `immediate_exit` ended the entry.
    Kicked,
    /// The guest asked for a reset through the keyboard controller.
    GuestReset,
    /// `KVM_EXIT_SHUTDOWN`: a triple fault.
    TripleFault,
    /// KVM cannot go on.
    Error(String),
}

/// What the guest reaches by address: where exits for memory-mapped and port accesses go.
pub trait GuestBus {
    /// The guest reads memory that is no RAM.
    fn mmio_read(&self, address: u64, data: &mut [u8]);

    /// The guest writes memory that is no RAM.
    fn mmio_write(&self, address: u64, data: &[u8]);

    /// The guest reads a port.
    fn pio_read(&self, port: u16, data: &mut [u8]);

    /// The guest writes a port.
    fn pio_write(&self, port: u16, data: &[u8]);

    /// True once the guest has pulled the reset line.
    fn reset_line_pulled(&self) -> bool;
}

/// Enters the guest once and lets `bus` handle the exit.
pub fn run_once(vcpu: &mut Vcpu, bus: &impl GuestBus) -> ExitOutcome {
    let outcome = match vcpu.arch.fd.run() {
        Ok(VcpuExit::MmioRead(address, data)) => {
            bus.mmio_read(address, data);
            ExitOutcome::Continue
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            bus.mmio_write(address, data);
            ExitOutcome::Continue
        }
        Ok(VcpuExit::IoIn(port, data)) => {
            bus.pio_read(port, data);
            ExitOutcome::Continue
        }
        Ok(VcpuExit::IoOut(port, data)) => {
            bus.pio_write(port, data);
            if bus.reset_line_pulled() { ExitOutcome::GuestReset } else { ExitOutcome::Continue }
        }
        Ok(VcpuExit::Intr) => ExitOutcome::Kicked,
        Ok(VcpuExit::Shutdown) => ExitOutcome::TripleFault,
        Ok(VcpuExit::SystemEvent(kind, _)) => {
            ExitOutcome::Error(format!("unexpected system event {kind}"))
        }
        Ok(VcpuExit::FailEntry(reason, cpu)) => ExitOutcome::Error(format!(
            "the processor refused to enter the guest: reason {reason:#x} on CPU {cpu}"
        )),
        Ok(VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL)) => match &mut vcpu.ring {
            Some(ring) => match ring.make_room() {
                Ok(()) => ExitOutcome::Continue,
                Err(e) => ExitOutcome::Error(e.to_string()),
            },
            None => ExitOutcome::Error("a dirty ring is full, and there is none".into()),
        },
        Ok(VcpuExit::InternalError) => ExitOutcome::Error(String::new()),
        Ok(other) => ExitOutcome::Error(format!("unexpected exit {other:?}")),
        Err(e) => match e.errno() {
            libc::EINTR => ExitOutcome::Kicked,
            errno => run_failed(errno, vcpu.is_bootstrap),
        },
    };
    match outcome {
        ExitOutcome::Error(reason) if reason.is_empty() => ExitOutcome::Error(internal_error(vcpu)),
        outcome => outcome,
    }
}

/// What an error of `KVM_RUN` means.
fn run_failed(errno: i32, is_bootstrap: bool) -> ExitOutcome {
    match errno {
        // An application processor was woken without being started yet.
        libc::EAGAIN if !is_bootstrap => ExitOutcome::Kicked,
        // With its first entry a VM gets a thread of the kernel that counts as one of this process.
        libc::EAGAIN => ExitOutcome::Error(
            "KVM could not start a thread of its own; raise the limit of threads (TasksMax of the \
             service, pids.max of the cgroup, RLIMIT_NPROC)"
                .to_owned(),
        ),
        errno => {
            let error = std::io::Error::from_raw_os_error(errno);
            ExitOutcome::Error(format!("KVM_RUN failed: {error}"))
        }
    }
}

/// Names the sub-error of a `KVM_EXIT_INTERNAL_ERROR` (api.rst 5).
fn internal_error(vcpu: &mut Vcpu) -> String {
    let run = vcpu.arch.fd.get_kvm_run();
    // SAFETY: KVM has just filled this member of the union: the exit reason is
    // KVM_EXIT_INTERNAL_ERROR. Every bit pattern is a valid u32.
    let suberror = unsafe { run.__bindgen_anon_1.internal.suberror };
    let rip = vcpu.arch.fd.get_regs().map(|regs| regs.rip).unwrap_or_default();
    match suberror {
        1 => format!(
            "KVM could not emulate an instruction at {rip:#x}: this KVM has no hardware \
             virtualisation behind it; run Linux guests on a host with VT-x or AMD-V"
        ),
        2 => format!("KVM met simultaneous exceptions at {rip:#x}"),
        3 => format!("KVM failed to deliver an event at {rip:#x}"),
        other => format!("KVM internal error {other} at {rip:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loop that enters again and again would use a processor up until the boot's limit.
    #[test]
    fn only_a_processor_that_waits_to_be_started_is_entered_again() {
        assert_eq!(run_failed(libc::EAGAIN, false), ExitOutcome::Kicked);
        for (errno, says) in [(libc::EAGAIN, "TasksMax"), (libc::ENOMEM, "memory")] {
            let ExitOutcome::Error(reason) = run_failed(errno, true) else { panic!("{errno}") };
            assert!(reason.contains(says), "{reason}");
        }
    }
}
