//! Port 0x80: the guest says how far it has come, as firmware does with POST codes.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::arch::layout;

/// What was last written to the checkpoint port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mark {
    /// How many bytes have been written so far.
    pub count: u64,
    /// The last one.
    pub value: u8,
    /// When.
    pub at: Instant,
}

/// The checkpoint port. Clones share it.
#[derive(Clone, Default)]
pub struct Checkpoint {
    shared: Arc<(Mutex<Option<Mark>>, Condvar)>,
}

impl Checkpoint {
    /// The port.
    pub const PORT: u16 = layout::CHECKPOINT_PORT;

    /// Takes a byte from the guest.
    pub fn write(&self, value: u8) {
        let at = Instant::now();
        let mut mark = self.lock();
        let count = mark.map_or(0, |mark| mark.count).saturating_add(1);
        *mark = Some(Mark { count, value, at });
        drop(mark);
        self.shared.1.notify_all();
    }

    /// The last byte the guest wrote.
    pub fn last(&self) -> Option<Mark> {
        *self.lock()
    }

    /// Waits until the guest has written more than `seen` bytes. `None` when `limit` passes first.
    pub fn wait(&self, seen: u64, limit: Duration) -> Option<Mark> {
        let deadline = Instant::now().checked_add(limit)?;
        let mut mark = self.lock();
        loop {
            if let Some(mark) = mark.filter(|mark| mark.count > seen) {
                return Some(mark);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let left = left.max(Duration::from_micros(1));
            mark = self.shared.1.wait_timeout(mark, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Mark>> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
