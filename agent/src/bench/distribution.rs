//! Distributions.

use std::time::Duration;

use serde::Serialize;

/// A distribution in microseconds, percentiles by nearest rank.
#[derive(Debug, Clone, Copy, Default, Serialize, PartialEq)]
pub struct Distribution {
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// Largest sample.
    pub max_us: f64,
}

impl Distribution {
    /// The distribution of `samples`; all zero when there are none.
    pub fn of(samples: impl IntoIterator<Item = Duration>) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().map(|d| d.as_secs_f64() * 1e6).collect();
        sorted.sort_by(f64::total_cmp);
        let rank = |percent: usize| {
            let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
            sorted.get(at).copied().unwrap_or_default()
        };
        Self { p50_us: rank(50), p90_us: rank(90), p99_us: rank(99), max_us: rank(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let found = Distribution::of((1..=100).rev().map(Duration::from_micros));
        let rounded =
            [found.p50_us, found.p90_us, found.p99_us, found.max_us].map(|us| format!("{us:.0}"));
        assert_eq!(rounded, ["50", "90", "99", "100"]);
        assert_eq!(Distribution::of([]), Distribution::default());
    }
}
