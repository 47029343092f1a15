//! How far a clock may have run since a reset set it to golden time.

use std::time::{Duration, Instant};

/// How much clocks of different origin may differ: this much, and a thousandth of what passed.
const CLOCK_SLACK: Duration = Duration::from_micros(500);
const CLOCK_DRIFT: u32 = 1000;

/// When a reset last set a machine's clocks to golden time: after the first moment and before the
/// second. `None` for a machine that was captured and not reset yet: its clocks never stopped.
pub type ResetWindow = Option<(Instant, Instant)>;

/// Bounds for what a clock shows. Clocks run on while a machine stands still, by as much as passed
/// since the reset set them.
#[derive(Debug, Clone, Copy)]
pub struct ElapsedBounds {
    /// When the clock was set.
    pub reset: ResetWindow,
    /// The clock was read after the first moment and before the second.
    pub read: (Instant, Instant),
}

impl ElapsedBounds {
    /// Whether a clock of `hertz` ticks a second went on as it should, from `then` ticks at the
    /// capture to `now`.
    pub fn fits(&self, then: u64, now: u64, hertz: u64) -> bool {
        let Some((earliest, latest)) = self.reset else { return now >= then };
        let least = self.read.0.saturating_duration_since(latest);
        let most = self.read.1.saturating_duration_since(earliest);
        let slack = CLOCK_SLACK + most / CLOCK_DRIFT;
        let Some(ticks) = now.checked_sub(then) else { return false };
        let passed = u128::from(ticks) * 1_000_000_000 / u128::from(hertz.max(1));
        (least.saturating_sub(slack).as_nanos()..=(most + slack).as_nanos()).contains(&passed)
    }

    /// What a clock that was captured at `then` ticks is expected to show, in words.
    pub fn expected(&self, then: u64) -> String {
        let since = self.reset.map(|(earliest, _)| self.read.1.saturating_duration_since(earliest));
        since.map_or(format!("{then} or more"), |since| format!("{then} {since:?} ago"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_may_run_as_long_as_passed_and_no_longer() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let bounds = ElapsedBounds { reset: Some((at(0), at(1))), read: (at(100), at(101)) };
        let khz = 1_000_000;
        assert!(bounds.fits(5, 5 + 100_000, khz));
        assert!(!bounds.fits(5, 5 + 98_000, khz), "too slow");
        assert!(!bounds.fits(5, 5 + 102_000, khz), "too fast");
        assert!(!bounds.fits(5, 4, khz), "backwards");
    }

    #[test]
    fn a_clock_that_was_never_set_only_runs_forward() {
        let now = Instant::now();
        let bounds = ElapsedBounds { reset: None, read: (now, now) };
        assert!(bounds.fits(5, u64::MAX, 1));
        assert!(!bounds.fits(5, 4, 1));
    }
}
