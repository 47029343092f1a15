//! How long to wait before the next attempt.

use std::time::Duration;

/// Waits between attempts: each is drawn evenly from the whole of an interval, so that a relay that
/// comes back is not met by all its endpoints at once. The intervals double from `first` to `most`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The interval after the first failure.
    pub first: Duration,
    /// The longest interval.
    pub most: Duration,
    /// The shortest wait.
    pub floor: Duration,
    /// The shortest interval after a session: a relay that stops ends those of all its endpoints at the
    /// same time.
    pub spread: Duration,
}

impl Default for Backoff {
    /// 1, 2, 4, 8, 16, 32, 60 s, from 0.2 s on; 10 s after a session.
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            most: Duration::from_secs(60),
            floor: Duration::from_millis(200),
            spread: Duration::from_secs(10),
        }
    }
}

impl Backoff {
    /// The interval after `failures` failures in a row.
    pub fn interval(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.most)
    }

    /// A wait within the interval, at `chance`, which is in 0..1.
    pub fn within(&self, interval: Duration, chance: f64) -> Duration {
        let floor = self.floor.min(interval);
        floor + interval.saturating_sub(floor).mul_f64(chance.clamp(0.0, 1.0))
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
    fn intervals_double_up_to_the_longest() {
        let backoff = Backoff::default();
        let intervals: Vec<u64> = (1..=8).map(|n| backoff.interval(n).as_secs()).collect();
        assert_eq!(intervals, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.interval(0).as_secs(), 1);
        assert_eq!(backoff.interval(u32::MAX).as_secs(), 60);
    }

    #[test]
    fn a_wait_is_anywhere_in_its_interval() {
        let backoff = Backoff::default();
        let minute = Duration::from_secs(60);
        assert_eq!(backoff.within(minute, 0.0), Duration::from_millis(200));
        assert_eq!(backoff.within(minute, 0.5), Duration::from_millis(30_100));
        assert_eq!(backoff.within(minute, 1.0), minute);
        let short = Duration::from_millis(50);
        assert_eq!(backoff.within(short, 0.5), short, "not longer than the interval");
        let drawn: Vec<f64> = (0..64).map(|_| chance()).collect();
        assert!(drawn.iter().all(|chance| (0.0..1.0).contains(chance)));
        assert!(drawn.iter().any(|chance| (chance - drawn[0]).abs() > f64::EPSILON));
    }
}
