//! The result of one measurement.

use std::time::Duration;

use serde::Serialize;
use vmm::{ResetParts, ResetReport};

use super::{Distribution, Footprint, Host, ResetBench};

/// The result of one measurement, as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// `micro` or `linux`.
    pub guest: String,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Dirty pages of the median reset.
    pub dirty_pages: u64,
    /// How they were found: `log` or `ring`.
    pub tracking: String,
    /// How they got their content back.
    pub strategy: String,
    /// Number of resets.
    pub iterations: u32,
    /// The reset of a machine that stands still: all parts but `stop` and `resume`.
    #[serde(flatten)]
    pub reset: Distribution,
    /// Median of each part, in microseconds.
    pub parts_us: Parts,
    /// What a caller waits for: `stop`, the reset and `resume`.
    pub cycle: Distribution,
    /// The guest's next run, from entering it to its checkpoint or its answer.
    pub next_run: Distribution,
    /// Median of `next_run`, in microseconds.
    pub next_run_us: f64,
    /// Every reset, in microseconds, in order.
    pub samples_us: Vec<f64>,
    /// Median of the first and of the last tenth of the resets, in microseconds.
    pub drift_us: [f64; 2],
    /// What the process held when measuring began, and when it ended.
    pub footprint: [Footprint; 2],
    /// Where it was measured.
    pub host: Host,
}

/// Median of each part of a reset, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Parts {
    /// Taking the vCPUs out of the guest.
    pub stop: f64,
    /// Reading the dirty log and uniting it with the devices' record.
    pub harvest: f64,
    /// Giving dirty pages their content back.
    pub copy: f64,
    /// Device state and the disk.
    pub devices: f64,
    /// Interrupt controllers, timers and vCPUs.
    pub vcpus: f64,
    /// Letting the vCPUs run again.
    pub resume: f64,
}

/// What was collected while measuring.
#[derive(Debug, Default)]
pub struct Samples {
    reports: Vec<ResetReport>,
    next_runs: Vec<Duration>,
    began_with: Option<Footprint>,
}

impl Samples {
    /// Adds a reset. `stop` and `resume` are in its parts.
    pub fn add(&mut self, report: ResetReport) {
        self.began_with.get_or_insert_with(Footprint::now);
        self.reports.push(report);
    }

    /// Adds a run after a reset.
    pub fn add_next_run(&mut self, took: Duration) {
        self.next_runs.push(took);
    }

    /// What they come to.
    pub fn row(&self, guest: &str, bench: &ResetBench) -> Row {
        let median = |part: fn(&ResetParts) -> Duration| {
            Distribution::of(self.reports.iter().map(|report| part(&report.parts))).p50_us
        };
        let mut pages: Vec<u64> =
            self.reports.iter().map(|report| report.dirty_pages as u64).collect();
        pages.sort_unstable();
        let standing = |report: &ResetReport| {
            report.parts.total().saturating_sub(report.parts.stop + report.parts.resume)
        };
        let tenth = self.reports.len().div_ceil(10);
        let next_run = Distribution::of(self.next_runs.iter().copied());
        Row {
            guest: guest.to_owned(),
            memory_mib: bench.memory_mib,
            vcpus: bench.vcpus,
            dirty_pages: pages.get(pages.len() / 2).copied().unwrap_or_default(),
            tracking: format!("{:?}", bench.tracking).to_lowercase(),
            strategy: bench.strategy.name().to_owned(),
            iterations: self.reports.len() as u32,
            reset: Distribution::of(self.reports.iter().map(standing)),
            parts_us: Parts {
                stop: median(|parts| parts.stop),
                harvest: median(|parts| parts.harvest),
                copy: median(|parts| parts.copy),
                devices: median(|parts| parts.devices),
                vcpus: median(|parts| parts.vcpus),
                resume: median(|parts| parts.resume),
            },
            cycle: Distribution::of(self.reports.iter().map(|report| report.parts.total())),
            next_run_us: next_run.p50_us,
            next_run,
            drift_us: [
                Distribution::of(self.reports.iter().take(tenth).map(standing)).p50_us,
                Distribution::of(self.reports.iter().rev().take(tenth).map(standing)).p50_us,
            ],
            footprint: [self.began_with.unwrap_or_default(), Footprint::now()],
            samples_us: self.reports.iter().map(|r| standing(r).as_secs_f64() * 1e6).collect(),
            host: Host::here(),
        }
    }
}
