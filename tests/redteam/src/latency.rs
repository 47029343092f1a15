//! How long something took, again and again.

use std::time::Duration;

use serde::Serialize;

/// A distribution in milliseconds, to the microsecond, with percentiles by nearest rank. The field
/// names are those of the report schema.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Number of samples.
    pub samples: usize,
    /// Median.
    pub p50_ms: f64,
    /// 90th percentile.
    pub p90_ms: f64,
    /// 95th percentile.
    pub p95_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Mean.
    pub mean_ms: f64,
    /// Smallest.
    pub min_ms: f64,
    /// Largest.
    pub max_ms: f64,
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
            samples: sorted.len(),
            p50_ms: rank(50),
            p90_ms: rank(90),
            p95_ms: rank(95),
            p99_ms: rank(99),
            mean_ms: if sorted.is_empty() {
                0.0
            } else {
                sum / f64::from(u32::try_from(sorted.len()).unwrap_or(u32::MAX))
            },
            min_ms: rank(0),
            max_ms: rank(100),
            sorted,
        }
    }
}

/// A time in milliseconds, to the microsecond.
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
        let all = [
            found.min_ms,
            found.p50_ms,
            found.p90_ms,
            found.p95_ms,
            found.p99_ms,
            found.max_ms,
            found.mean_ms,
        ];
        assert_eq!(
            all.map(|ms| format!("{ms}")),
            ["1", "100", "180", "190", "198", "200", "100.5"]
        );
        assert_eq!(Latency::of(&[]), Latency::default());
        assert_eq!(Latency::of(&[Duration::from_micros(1500)]).p99_ms.to_string(), "1.5");
    }
}
