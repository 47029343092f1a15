//! Results of the reset benchmark: resets measured over memory sizes, dirty pages and strategies.

pub mod csv;
pub mod plots;
pub mod table;

use brainstorm_agent::bench::StepTimes;

/// Strategies in the order they are shown; others follow by name.
const STRATEGIES: [&str; 5] = ["copy-back", "drop-private", "hybrid", "full-copy", FLOOR];
/// The strategy that stands for what no reset can be faster than.
const FLOOR: &str = "floor";

/// What one strategy took in one setting.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The guest that ran: `micro` or `linux`.
    pub guest: String,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Pages of 4 KiB the guest dirtied before each reset.
    pub dirty_pages: u64,
    /// How memory was restored: `copy-back`, `drop-private`, `hybrid`, `full-copy`, or `floor`.
    pub strategy: String,
    /// Number of resets measured.
    pub iterations: u32,
    /// Median time of a reset in microseconds.
    pub p50_us: f64,
    /// 90th percentile in microseconds.
    pub p90_us: f64,
    /// 99th percentile in microseconds.
    pub p99_us: f64,
    /// Slowest reset in microseconds.
    pub max_us: f64,
    /// Median time of each step of a reset.
    pub parts_us: StepTimes,
    /// Median time of the guest's next run in microseconds; zero when it was not measured.
    pub next_run_us: f64,
    /// Time of each reset in microseconds; may be empty.
    pub samples_us: Vec<f64>,
}

/// Where a strategy is shown among others.
fn rank(strategy: &str) -> (usize, &str) {
    let known = STRATEGIES.iter().position(|name| *name == strategy);
    (known.unwrap_or(STRATEGIES.len()), strategy)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A row of the micro guest with one vCPU.
    pub(crate) fn row(strategy: &str, memory_mib: u32, dirty_pages: u64, p50_us: f64) -> Row {
        Row {
            guest: "micro".to_owned(),
            memory_mib,
            vcpus: 1,
            dirty_pages,
            strategy: strategy.to_owned(),
            iterations: 3,
            p50_us,
            p90_us: p50_us * 2.0,
            p99_us: p50_us * 3.0,
            max_us: p50_us * 4.0,
            parts_us: StepTimes { stop: 1.0, collect: 2.0, copy: p50_us, ..StepTimes::default() },
            next_run_us: p50_us * 5.0,
            samples_us: vec![p50_us, p50_us * 1.5, p50_us * 4.0],
        }
    }

    #[test]
    fn strategies_are_shown_in_their_order() {
        let mut names = ["unknown", "floor", "hybrid", "copy-back", "another"];
        names.sort_by_key(|name| rank(name));
        assert_eq!(names, ["copy-back", "hybrid", "floor", "another", "unknown"]);
    }
}
