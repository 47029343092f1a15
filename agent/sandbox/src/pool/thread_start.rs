//! What the embedding program wants done on the threads of a pool.

use std::sync::OnceLock;

static AT_START: OnceLock<fn()> = OnceLock::new();

/// Has `task` run on every pool thread that starts from now on, before it does anything else: to
/// put the thread under a seccomp filter, for instance. The thread then boots, resets and verifies
/// machines, so it calls KVM and starts vCPU threads.
///
/// The first task stays; false when there was one already.
pub fn at_pool_thread_start(task: fn()) -> bool {
    AT_START.set(task).is_ok()
}

/// Runs the task that the program has set, if any.
pub fn run() {
    if let Some(task) = AT_START.get() {
        task();
    }
}
