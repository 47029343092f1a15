//! How a machine ends: the first reason wins, all waiting threads are told.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::StopReason;
use crate::devices::Console;
use crate::devices::vsock::VsockHost;
use crate::kvm::VcpuControl;

/// Shared by the machine, its vCPU threads and its devices.
pub struct StopState {
    reason: Mutex<Option<StopReason>>,
    changed: Condvar,
    /// The threads own the vCPUs, whose descriptors keep the VM: it goes with the threads.
    vcpus: OnceLock<Vec<Weak<VcpuControl>>>,
    console: Console,
    vsock: VsockHost,
}

impl StopState {
    /// A machine that has not ended.
    pub fn new(console: Console, vsock: VsockHost) -> Self {
        Self {
            reason: Mutex::new(None),
            changed: Condvar::new(),
            vcpus: OnceLock::new(),
            console,
            vsock,
        }
    }

    /// Registers the vCPUs that must end with the machine.
    pub fn set_vcpus(&self, vcpus: &[Arc<VcpuControl>]) {
        // A machine boots once, so this is the first call.
        let _ = self.vcpus.set(vcpus.iter().map(Arc::downgrade).collect());
    }

    /// Ends the machine. Only takes locks of its own, so that devices can call it while locked;
    /// what needs their locks is left to [`StopState::close_streams`].
    pub fn stop(&self, reason: StopReason) {
        {
            let mut current = self.lock();
            if current.is_none() {
                *current = Some(reason);
            }
        }
        for vcpu in self.vcpus.get().into_iter().flatten().filter_map(Weak::upgrade) {
            vcpu.exit();
        }
        self.changed.notify_all();
    }

    /// Closes the streams of a machine that has ended. Must be called without device locks: vCPU
    /// threads do so on their way out.
    pub fn close_streams(&self) {
        let reason = self.reason().unwrap_or(StopReason::Shutdown);
        self.vsock.close_all(&reason.to_string());
    }

    /// A triple fault is how this guest's kernel restarts after a panic: look for its words.
    pub fn triple_fault(&self) {
        self.stop(match self.console.snapshot().panic_line() {
            Some(line) => StopReason::GuestPanic(line),
            None => StopReason::TripleFault,
        });
    }

    /// The guest pulled the reset line: after a panic or by its own will.
    pub fn guest_reset(&self) {
        self.stop(match self.console.snapshot().panic_line() {
            Some(line) => StopReason::GuestPanic(line),
            None => StopReason::GuestReset,
        });
    }

    /// Why the machine ended, if it did.
    pub fn reason(&self) -> Option<StopReason> {
        self.lock().clone()
    }

    /// Waits for the end.
    pub fn wait(&self, limit: Duration) -> Option<StopReason> {
        let deadline = Instant::now().checked_add(limit);
        let mut reason = self.lock();
        while reason.is_none() {
            let left = match deadline {
                Some(deadline) => deadline.checked_duration_since(Instant::now())?,
                None => limit,
            };
            (reason, _) = self
                .changed
                .wait_timeout(reason, left.max(Duration::from_micros(1)))
                .unwrap_or_else(PoisonError::into_inner);
        }
        reason.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<StopReason>> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
