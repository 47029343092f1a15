//! A bound on how often something happens.

use std::time::Instant;

/// Allows a burst, and then so many a second: a token bucket.
#[derive(Debug)]
pub struct RateLimiter {
    burst: f64,
    per_second: f64,
    left: f64,
    since: Instant,
    denied: u64,
}

impl RateLimiter {
    /// A limiter with its whole burst left.
    pub fn new(burst: u32, per_second: u32) -> Self {
        let burst = f64::from(burst);
        let per_second = f64::from(per_second);
        Self { burst, per_second, left: burst, since: Instant::now(), denied: 0 }
    }

    /// Asks whether one more may happen at `now`. `Some` holds how many were denied since the last
    /// time one was allowed.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        let elapsed = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = now;
        self.left = elapsed.mul_add(self.per_second, self.left).min(self.burst);
        if self.left < 1.0 {
            self.denied += 1;
            return None;
        }
        self.left -= 1.0;
        Some(std::mem::take(&mut self.denied))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_then_a_trickle_and_no_tenant_is_forgotten() {
        let mut limiter = RateLimiter::new(3, 10);
        let start = limiter.since;
        let allowed = (0..10).filter(|_| limiter.take(start).is_some()).count();
        assert_eq!(allowed, 3);
        assert_eq!(limiter.take(start + Duration::from_millis(50)), None);
        assert_eq!(limiter.take(start + Duration::from_millis(101)), Some(8));
        let later = start + Duration::from_secs(100);
        assert_eq!((0..10).filter(|_| limiter.take(later).is_some()).count(), 3);
    }
}
