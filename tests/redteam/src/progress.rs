//! How far a probe has come.

use std::sync::atomic::{AtomicU64, Ordering};

/// The turn that a probe is at, and the number of its turns; zero of zero where it does not count.
#[derive(Debug, Default)]
pub struct Progress(AtomicU64);

impl Progress {
    /// Says that turn number `turn`, from 0, of `of` begins.
    pub fn set(&self, turn: u32, of: u32) {
        // One value, so that a reader never sees the turn of one probe with the end of another.
        self.0.store(u64::from(turn) << u32::BITS | u64::from(of), Ordering::Relaxed);
    }

    /// The turn and the number of turns that were set last.
    pub fn get(&self) -> (u32, u32) {
        let both = self.0.load(Ordering::Relaxed);
        ((both >> u32::BITS) as u32, both as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_numbers_come_back() {
        let progress = Progress::default();
        assert_eq!(progress.get(), (0, 0));
        progress.set(7, u32::MAX);
        assert_eq!(progress.get(), (7, u32::MAX));
    }
}
