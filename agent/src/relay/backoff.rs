//! How long to wait before the next attempt.

use std::time::Duration;

/// Waits between attempts: doubling from `first` to `most`, each moved by up to `jitter` of itself
/// to either side, so that a relay that comes back is not met by all its endpoints at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// The longest wait, before jitter.
    pub most: Duration,
    /// Part of the wait, 0 to 1.
    pub jitter: f64,
}

impl Default for Backoff {
    /// 1, 2, 4, 8, 16, 32, 60 s, moved by a fifth.
    fn default() -> Self {
        Self { first: Duration::from_secs(1), most: Duration::from_secs(60), jitter: 0.2 }
    }
}

impl Backoff {
    /// The wait after `failures` failures in a row, moved by `chance`, which is in 0..1.
    pub fn wait(&self, failures: u32, chance: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let wait = self.first.saturating_mul(1 << doublings).min(self.most);
        self.moved(wait, chance)
    }

    /// `wait`, moved by `chance`, which is in 0..1.
    pub fn moved(&self, wait: Duration, chance: f64) -> Duration {
        let jitter = self.jitter.clamp(0.0, 1.0);
        wait.mul_f64(1.0 + jitter * (2.0 * chance.clamp(0.0, 1.0) - 1.0))
    }
}

/// A number in 0..1 from the system's random numbers; the middle where there are none.
pub fn chance() -> f64 {
    let mut bytes = [0; 4];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => f64::from(u32::from_ne_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let backoff = Backoff::default();
        let waits: Vec<u64> = (1..=8).map(|n| backoff.wait(n, 0.5).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.wait(0, 0.5).as_secs(), 1);
        assert_eq!(backoff.wait(u32::MAX, 0.5).as_secs(), 60);
    }

    #[test]
    fn jitter_moves_a_wait_by_its_part_to_either_side() {
        let backoff = Backoff::default();
        assert_eq!(backoff.wait(7, 0.0), Duration::from_secs(48));
        assert_eq!(backoff.wait(7, 1.0), Duration::from_secs(72));
        let drawn: Vec<f64> = (0..64).map(|_| chance()).collect();
        assert!(drawn.iter().all(|chance| (0.0..1.0).contains(chance)));
        assert!(drawn.iter().any(|chance| (chance - drawn[0]).abs() > f64::EPSILON));
    }
}
