//! Who on the host waits for what: handles of streams, listeners, wakers. None of it is part of
//! the guest's state, so none of it is captured or restored.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use super::connection::ConnectionId;
use super::counters::VsockCounters;
use super::shared::Core;

/// A condition variable that costs nothing to ring when nobody waits.
#[derive(Debug, Default)]
pub struct Bell {
    condvar: Condvar,
    waiting: AtomicUsize,
}

impl Bell {
    /// Waits to be rung, or for `limit`.
    pub fn wait<'a>(
        &self,
        core: MutexGuard<'a, Core>,
        limit: Option<Duration>,
    ) -> MutexGuard<'a, Core> {
        // The core's lock orders these; the counter is only ever touched under it.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let core = match limit {
            None => self.condvar.wait(core).unwrap_or_else(PoisonError::into_inner),
            Some(limit) => {
                self.condvar.wait_timeout(core, limit).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        core
    }

    /// Wakes everybody who waits. Called under the core's lock.
    pub fn ring(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.condvar.notify_all();
        }
    }
}

/// Which direction of a stream a waker waits for.
#[cfg(feature = "tokio")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Data or an end to read.
    Read,
    /// Room or an end for writing.
    Write,
}

/// The host's hold on one connection, shared by all clones of a stream.
#[derive(Debug, Default)]
pub struct Handle {
    /// Number of streams.
    pub streams: usize,
    /// Rung at every change of the connection.
    pub bell: Arc<Bell>,
    /// Limit of one blocking read.
    pub read_timeout: Option<Duration>,
    /// Limit of one blocking write.
    pub write_timeout: Option<Duration>,
    readers: Vec<Waker>,
    writers: Vec<Waker>,
}

#[cfg(feature = "tokio")]
impl Handle {
    /// Asks for one call of `waker` at the next change.
    pub fn register(&mut self, interest: Interest, waker: &Waker) {
        let wakers = match interest {
            Interest::Read => &mut self.readers,
            Interest::Write => &mut self.writers,
        };
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }
}

/// A host port somebody listens on.
#[derive(Debug)]
pub struct Listening {
    /// Tells this listener from an earlier one on the same port.
    pub id: u64,
    /// Rung at every new connection.
    pub bell: Arc<Bell>,
}

/// The host side of one machine, and what is counted about the guest.
#[derive(Debug, Default)]
pub struct Registry {
    /// Live handles.
    pub handles: BTreeMap<ConnectionId, Handle>,
    /// Live listeners by port.
    pub listeners: BTreeMap<u32, Listening>,
    /// Counters.
    pub counters: VsockCounters,
    /// Wakers to call once the lock is released.
    pub due: Vec<Waker>,
    last_id: u64,
}

impl Registry {
    /// A number that was never given before in this machine's life, not even before a restore.
    pub fn fresh_id(&mut self) -> u64 {
        self.last_id = self.last_id.wrapping_add(1);
        self.last_id
    }

    /// Makes sure that `id` is not given again.
    pub fn reserve_id(&mut self, id: u64) {
        self.last_id = self.last_id.max(id);
    }

    /// One more stream for `id`.
    pub fn open(&mut self, id: ConnectionId) -> Arc<Bell> {
        let handle = self.handles.entry(id).or_default();
        handle.streams = handle.streams.saturating_add(1);
        Arc::clone(&handle.bell)
    }

    /// One stream less. True when it was the last.
    pub fn close(&mut self, id: ConnectionId) -> bool {
        let Some(handle) = self.handles.get_mut(&id) else {
            return false;
        };
        handle.streams = handle.streams.saturating_sub(1);
        let last = handle.streams == 0;
        if last {
            self.handles.remove(&id);
        }
        last
    }

    /// Wakes everybody who waits for `id`.
    pub fn wake(&mut self, id: ConnectionId) {
        if let Some(handle) = self.handles.get_mut(&id) {
            handle.bell.ring();
            self.due.append(&mut handle.readers);
            self.due.append(&mut handle.writers);
        }
    }

    /// Wakes everybody.
    pub fn wake_all(&mut self) {
        for handle in self.handles.values_mut() {
            handle.bell.ring();
            self.due.append(&mut handle.readers);
            self.due.append(&mut handle.writers);
        }
        for listener in self.listeners.values() {
            listener.bell.ring();
        }
    }
}
