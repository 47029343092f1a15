//! Blocking host threads that wait for a change under the device's lock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, MutexGuard, PoisonError};
use std::time::Duration;

/// A condition variable whose [`WaitQueue::wake_all`] costs nothing when no thread waits.
#[derive(Debug, Default)]
pub struct WaitQueue {
    condvar: Condvar,
    waiting: AtomicUsize,
}

impl WaitQueue {
    /// Waits until [`WaitQueue::wake_all`] is called, at most for `limit`. All callers have to use
    /// the same lock.
    pub fn wait<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        limit: Option<Duration>,
    ) -> MutexGuard<'a, T> {
        // The lock orders these; the counter is only ever touched under it.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let guard = match limit {
            None => self.condvar.wait(guard).unwrap_or_else(PoisonError::into_inner),
            Some(limit) => {
                self.condvar.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        guard
    }

    /// Wakes every thread that waits. The caller holds the lock.
    pub fn wake_all(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.condvar.notify_all();
        }
    }
}
