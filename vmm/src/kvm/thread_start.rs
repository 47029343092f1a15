//! What the embedding program wants done on the threads that run guests.

use std::sync::OnceLock;

static AT_START: OnceLock<fn()> = OnceLock::new();

/// Has `task` run on every vCPU thread that starts from now on, before it does anything else: to
/// put the thread under a seccomp filter, for instance. The thread then works with files that are
/// open already, opens `/proc/self/pagemap` for reading, and calls KVM; it starts no thread.
///
/// The first task stays; false when there was one already.
pub fn at_vcpu_thread_start(task: fn()) -> bool {
    AT_START.set(task).is_ok()
}

/// Runs what was asked for.
pub fn run() {
    if let Some(task) = AT_START.get() {
        task();
    }
}
