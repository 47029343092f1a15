//! The result of one measurement.

use std::time::Duration;

use vmm::{ResetParts, ResetReport};

use super::{CallRow, Distribution, Footprint, Host, Report, ResetBench};

/// The reset of a machine that stands still.
pub const RESET: &str = "reset of a stopped machine";
/// The reset as its caller sees it.
pub const CYCLE: &str = "with stop and resume";
/// The guest's run after a reset.
pub const NEXT_RUN: &str = "the guest's next run";

/// The result of one measurement of resets.
#[derive(Debug, Clone, PartialEq)]
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
    pub reset: Distribution,
    /// Median of each step, in microseconds.
    pub parts_us: StepTimes,
    /// What a caller waits for: `stop`, the reset and `resume`.
    pub cycle: Distribution,
    /// The guest's next run, from entering it to its checkpoint or its answer.
    pub next_run: Distribution,
    /// Every reset, in microseconds, in order.
    pub samples_us: Vec<f64>,
    /// Median of the first and of the last tenth of the resets, in microseconds.
    pub drift_us: [f64; 2],
    /// What the process held when measuring began, and when it ended.
    pub footprint: [Footprint; 2],
    /// Where it was measured.
    pub host: Host,
    /// The kernel calls of a reset, in their order; empty unless they were asked for.
    pub calls: Vec<CallRow>,
}

/// Median of each step of a reset, in microseconds. The names are those of the steps.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepTimes {
    /// Taking the vCPUs out of the guest.
    pub stop: f64,
    /// Reading the dirty log and uniting it with the devices' record.
    pub collect: f64,
    /// Giving dirty pages their content back.
    pub copy: f64,
    /// Device registers, queue positions and connections.
    pub devices: f64,
    /// Dropping the disk's overlay.
    pub disk: f64,
    /// Interrupt controllers, timers and the clock.
    pub vm: f64,
    /// vCPUs with their local APICs.
    pub vcpus: f64,
    /// Letting the vCPUs run again.
    pub resume: f64,
}

impl StepTimes {
    /// Name and microseconds of each step, in their order.
    pub fn named(&self) -> [(&'static str, f64); 8] {
        [
            ("stop", self.stop),
            ("collect", self.collect),
            ("copy", self.copy),
            ("devices", self.devices),
            ("disk", self.disk),
            ("vm", self.vm),
            ("vcpus", self.vcpus),
            ("resume", self.resume),
        ]
    }
}

impl Row {
    /// The row as the document that all benchmarks print.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "counts are far below 2^52 and not negative"
    )]
    pub fn report(&self) -> Report {
        let mut report = Report::new("reset");
        let n = self.iterations as usize;
        report.add_samples(RESET, self.reset, self.samples_us.clone());
        report.add_distribution(CYCLE, n, self.cycle, None);
        report.add_distribution(NEXT_RUN, n, self.next_run, None);
        for call in &self.calls {
            let calls = (call.per_reset * f64::from(self.iterations)).round() as usize;
            report.add_distribution(&call.name, calls, call.one, None);
        }
        for (step, us) in self.parts_us.named() {
            report.value(format!("step {step}, median"), us, "us", None);
        }
        let [first, last] = self.drift_us;
        report.value("first tenth of the resets, median", first, "us", None);
        report.value("last tenth of the resets, median", last, "us", None);
        report.value("memory of the machine", f64::from(self.memory_mib), "MiB", None);
        report.value("vCPUs of the machine", f64::from(self.vcpus), "vCPUs", None);
        report.value("dirty pages, median", self.dirty_pages as f64, "pages", None);
        for (when, held) in ["before", "after"].into_iter().zip(self.footprint) {
            let Footprint { rss_kib, descriptors, threads, mappings } = held;
            report.value(format!("resident memory {when}"), rss_kib as f64, "KiB", None);
            report.value(format!("descriptors {when}"), descriptors as f64, "descriptors", None);
            report.value(format!("threads {when}"), threads as f64, "threads", None);
            report.value(format!("mappings {when}"), mappings as f64, "mappings", None);
        }
        report.note(format!("guest: {}", self.guest));
        report.note(format!("strategy: {}", self.strategy));
        report.note(format!("tracking: {}", self.tracking));
        report
    }
}

/// What was collected while measuring. All of its memory is in use from the start, so that what a
/// long measurement adds to the process is what resets add.
#[derive(Debug)]
pub struct Samples {
    resets: Vec<ResetParts>,
    next_runs: Vec<Duration>,
    pages: Vec<u32>,
    footprint: [Footprint; 2],
}

impl Samples {
    /// Room for `iterations` resets.
    pub fn new(iterations: u32) -> Self {
        let room = iterations as usize;
        let unused = Duration::from_nanos(1);
        let mut parts = ResetParts::default();
        (parts.stop, parts.copy) = (unused, unused);
        let mut samples = Self {
            resets: vec![parts; room],
            next_runs: vec![unused; room],
            pages: vec![1; room],
            footprint: [Footprint::default(); 2],
        };
        samples.resets.clear();
        samples.next_runs.clear();
        samples.pages.clear();
        samples.footprint = [Footprint::now(); 2];
        samples
    }

    /// Adds a reset. `stop` and `resume` are in its parts.
    pub fn add(&mut self, report: &ResetReport) {
        self.resets.push(report.parts);
        self.pages.push(report.dirty_pages as u32);
    }

    /// Adds a run after a reset.
    pub fn add_next_run(&mut self, took: Duration) {
        self.next_runs.push(took);
    }

    /// The last reset has been added.
    pub fn end(&mut self) {
        self.footprint[1] = Footprint::now();
    }

    /// What they come to.
    pub fn row(&self, guest: &str, bench: &ResetBench) -> Row {
        let median = |part: fn(&ResetParts) -> Duration| {
            Distribution::of(self.resets.iter().map(part)).p50_us
        };
        let mut pages = self.pages.clone();
        pages.sort_unstable();
        let standing = |parts: &ResetParts| parts.total().saturating_sub(parts.stop + parts.resume);
        let tenth = self.resets.len().div_ceil(10);
        Row {
            guest: guest.to_owned(),
            memory_mib: bench.memory_mib,
            vcpus: bench.vcpus,
            dirty_pages: pages.get(pages.len() / 2).copied().unwrap_or_default().into(),
            tracking: format!("{:?}", bench.tracking).to_lowercase(),
            strategy: bench.strategy.name().to_owned(),
            iterations: self.resets.len() as u32,
            reset: Distribution::of(self.resets.iter().map(standing)),
            parts_us: StepTimes {
                stop: median(|parts| parts.stop),
                collect: median(|parts| parts.collect),
                copy: median(|parts| parts.copy),
                devices: median(|parts| parts.devices),
                disk: median(|parts| parts.disk),
                vm: median(|parts| parts.vm),
                vcpus: median(|parts| parts.vcpus),
                resume: median(|parts| parts.resume),
            },
            cycle: Distribution::of(self.resets.iter().map(ResetParts::total)),
            next_run: Distribution::of(self.next_runs.iter().copied()),
            drift_us: [
                Distribution::of(self.resets.iter().take(tenth).map(standing)).p50_us,
                Distribution::of(self.resets.iter().rev().take(tenth).map(standing)).p50_us,
            ],
            footprint: self.footprint,
            samples_us: self.resets.iter().map(|r| standing(r).as_secs_f64() * 1e6).collect(),
            host: Host::here(),
            calls: Vec::new(),
        }
    }
}
