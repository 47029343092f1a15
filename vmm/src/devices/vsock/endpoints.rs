//! The host's endpoints: handles of streams, listeners, wakers. None of it is part of
//! the guest's state, so none of it is captured or restored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::connection::ConnectionId;
use super::counters::VsockCounters;
use super::wait_queue::WaitQueue;

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
    /// Woken at every change of the connection.
    pub wait_queue: Arc<WaitQueue>,
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

/// A host port with a listener.
#[derive(Debug)]
pub struct Listening {
    /// Tells this listener from an earlier one on the same port.
    pub id: u64,
    /// Woken at every new connection.
    pub wait_queue: Arc<WaitQueue>,
}

/// The host side of one machine, and what is counted about the guest.
#[derive(Debug, Default)]
pub struct HostEndpoints {
    /// Live handles.
    pub handles: BTreeMap<ConnectionId, Handle>,
    /// Live listeners by port.
    pub listeners: BTreeMap<u32, Listening>,
    /// Counters.
    pub counters: VsockCounters,
    /// Wakers to call once the lock is released.
    pub due_wakers: Vec<Waker>,
    last_id: u64,
}

impl HostEndpoints {
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
    pub fn open(&mut self, id: ConnectionId) -> Arc<WaitQueue> {
        let handle = self.handles.entry(id).or_default();
        handle.streams = handle.streams.saturating_add(1);
        Arc::clone(&handle.wait_queue)
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

    /// Wakes every thread and task that waits for `id`.
    pub fn wake(&mut self, id: ConnectionId) {
        if let Some(handle) = self.handles.get_mut(&id) {
            handle.wait_queue.wake_all();
            self.due_wakers.append(&mut handle.readers);
            self.due_wakers.append(&mut handle.writers);
        }
    }

    /// Wakes every thread and task that waits.
    pub fn wake_all(&mut self) {
        for handle in self.handles.values_mut() {
            handle.wait_queue.wake_all();
            self.due_wakers.append(&mut handle.readers);
            self.due_wakers.append(&mut handle.writers);
        }
        for listener in self.listeners.values() {
            listener.wait_queue.wake_all();
        }
    }
}
