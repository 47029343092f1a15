//! How far a battery has come.

use std::sync::atomic::{AtomicU64, Ordering};

/// The turn a probe is at, of so many; zero of zero where it does not count any.
#[derive(Debug, Default)]
pub struct Turns(AtomicU64);

impl Turns {
    /// A probe is about to do this turn, from 0.
    pub fn set(&self, turn: u32, of: u32) {
        // One value, so that nobody sees the turn of one probe with the end of another.
        self.0.store(u64::from(turn) << u32::BITS | u64::from(of), Ordering::Relaxed);
    }

    /// What was set last.
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
        let turns = Turns::default();
        assert_eq!(turns.get(), (0, 0));
        turns.set(7, u32::MAX);
        assert_eq!(turns.get(), (7, u32::MAX));
    }
}
