//! What a battery measured.

use std::time::Duration;

use serde::Serialize;

/// A distribution in milliseconds, to the microsecond; percentiles by nearest rank.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Number of samples.
    pub count: usize,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Mean.
    pub mean: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Every sample, sorted.
    #[serde(skip)]
    pub sorted: Vec<f64>,
}

impl Latency {
    /// The distribution of `samples`.
    pub fn of(samples: &[Duration]) -> Self {
        let mut sorted: Vec<f64> = samples.iter().map(|took| milliseconds(*took)).collect();
        sorted.sort_by(f64::total_cmp);
        let rank = |percent: usize| {
            let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
            sorted.get(at).copied().unwrap_or_default()
        };
        let sum: f64 = sorted.iter().sum();
        Self {
            count: sorted.len(),
            p50: rank(50),
            p90: rank(90),
            p95: rank(95),
            p99: rank(99),
            mean: if sorted.is_empty() {
                0.0
            } else {
                sum / f64::from(u32::try_from(sorted.len()).unwrap_or(u32::MAX))
            },
            min: rank(0),
            max: rank(100),
            sorted,
        }
    }
}

/// To the microsecond.
pub fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let samples: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        let found = Latency::of(&samples);
        let all = [found.min, found.p50, found.p90, found.p95, found.p99, found.max, found.mean];
        assert_eq!(
            all.map(|ms| format!("{ms}")),
            ["1", "100", "180", "190", "198", "200", "100.5"]
        );
        assert_eq!(Latency::of(&[]), Latency::default());
        assert_eq!(Latency::of(&[Duration::from_micros(1500)]).p99.to_string(), "1.5");
    }
}
