//! A task of the embedding program that every thread that runs a guest does first.

use std::sync::OnceLock;

static AT_START: OnceLock<fn()> = OnceLock::new();

/// Makes every vCPU thread that starts from now on run `task` before it does anything else. A program
/// can put these threads under a seccomp filter with it: afterwards the thread works with files that
/// are open already, opens `/proc/self/pagemap` for reading, and calls KVM. It starts no thread.
///
/// Returns false when there is a task already, which stays.
pub fn at_vcpu_thread_start(task: fn()) -> bool {
    AT_START.set(task).is_ok()
}

/// Runs the task, if there is one.
pub fn run() {
    if let Some(task) = AT_START.get() {
        task();
    }
}
