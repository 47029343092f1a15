//! Runs all tests, each where it can run: tests that boot Linux guests need a KVM that runs Linux,
//! which not every host has; everything else runs on any host.
//!
//! Where guests run in nested machines, two things go on at a time, because such a machine keeps one
//! processor busy. The first machine runs guest tests from the start. Beside it run the tests of the
//! host, the fuzz targets and, when asked for, the compiler's checks; then a second machine helps with
//! the guest tests that are left. Both take them from one queue, the longest first.

mod checks;
mod commands;
mod fuzzing;
mod group;
mod guest_files;
mod jobs;
mod report;
mod tally;
mod timing;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use self::group::Show;
pub use self::guest_files::GuestFiles;
use self::report::{Report, summary, verdict};
use self::timing::Durations;
use crate::cargo::{Executable, build};
use crate::nested::job::Job;
use crate::nested::{Choice, On, Queue, Runner, TEST_VCPUS};

/// Arguments of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub struct TestArgs {
    /// Run only the tests that boot Linux guests
    #[arg(long, conflicts_with = "host_only")]
    linux_only: bool,
    /// Run only the tests that boot no Linux guest
    #[arg(long)]
    host_only: bool,
    /// Also run clippy, build the documentation and check each crate with each of its features
    #[arg(long, conflicts_with_all = ["linux_only", "filter"])]
    with_checks: bool,
    /// Where Linux guests run, instead of where a probe of KVM says
    #[arg(long, value_enum, env = "BSM_RUN_ON")]
    on: Option<On>,
    /// Nested machines that run at the same time [default: 2, where memory and processors allow]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2))]
    machines: Option<u8>,
    /// Minutes after which a nested machine is ended
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Run only tests whose names contain this
    filter: Option<String>,
}

/// Free memory that two nested machines and the tests beside them need, in KiB.
const MEMORY_OF_TWO: u64 = 11 << 20;

/// Runs the tests. An error means that something failed or that guest tests ran nowhere.
pub fn run(arguments: &TestArgs) -> Result<()> {
    let begun = Instant::now();
    let workspace = crate::workspace::root()?;
    crate::disk_space::warn_if_short();
    // One test asks `file` how the agent is linked.
    crate::packages::ensure(&["file"])?;
    let (files, tests) = build_all(&workspace)?;
    let compiling = begun.elapsed();
    let (guest_tests, host_tests): (Vec<_>, Vec<_>) =
        tests.into_iter().filter(|e| e.is_test).partition(jobs::boots_linux);

    let durations = Durations::load();
    let limit = Duration::from_secs(60 * arguments.limit);
    let filter = arguments.filter.as_deref();
    let guests = if arguments.host_only {
        None
    } else {
        let choice = Choice::make(arguments.on);
        let mut jobs = jobs::of_tests(&guest_tests, &files, filter, choice.on);
        if filter.is_none() {
            jobs.extend(commands::with_guests(&workspace, &files, choice.on)?);
        }
        durations.sort(&mut jobs);
        Some(Guests::prepare(&choice, limit, jobs)?)
    };
    let nested = guests.as_ref().filter(|guests| guests.is_nested());
    let two =
        arguments.machines.map_or_else(|| filter.is_none() && room_for_two(), |count| count == 2);
    let shows = |beside: bool| if beside { Show::InBlocks } else { Show::Live };
    let beside_host = nested.is_some() && (two || !arguments.linux_only);

    let mut reports = Vec::new();
    let result = thread::scope(|scope| -> Result<Option<Report>> {
        let first = nested.map(|guests| scope.spawn(move || guests.run(shows(beside_host))));
        if !arguments.linux_only {
            let host =
                run_host_tests(&workspace, &host_tests, &files, limit, filter, shows(beside_host));
            reports.extend(host?);
            if filter.is_none() {
                reports.push(commands::run(&workspace, &files, shows(beside_host))?);
                reports.push(fuzzing::run());
            }
            if arguments.with_checks {
                reports.push(checks::run(&workspace, shows(beside_host))?);
            }
        }
        let second = match (&guests, nested) {
            (Some(guests), None) => Some(guests.run(Show::Live)),
            (Some(guests), Some(_)) if two => Some(guests.run(Show::InBlocks)),
            _ => None,
        };
        let Some(first) = first else { return Ok(second) };
        let mut report = first.join().map_err(|_| anyhow!("following the guest tests failed"))?;
        if let Some(second) = second {
            report.join(second);
        }
        Ok(Some(report))
    });
    if let (Some(mut report), Some(guests)) = (result?, &guests) {
        if guests.is_nested() {
            report = group::retry_failed(report, guests.queue.jobs(), &guests.runner);
        }
        reports.push(report);
    }
    eprint!("\n{}", timing::table(&[("compiling", compiling)], begun.elapsed(), &reports));
    if filter.is_none() {
        durations.save(&reports);
    }
    eprint!("\n{}", summary(&reports));
    verdict(&reports, arguments.filter.is_some())
}

/// Builds the images, which takes one processor most of the time, beside the programs.
fn build_all(workspace: &Path) -> Result<(GuestFiles, Vec<Executable>)> {
    thread::scope(|scope| {
        let images = scope.spawn(guest_files::images);
        let tests = build(workspace, &["test", "--locked", "--workspace", "--no-run"]);
        let agent = guest_files::agent(workspace);
        let (image, attack_image) =
            images.join().map_err(|_| anyhow!("building the images failed"))??;
        Ok((GuestFiles { image, attack_image, agent: agent? }, tests?))
    })
}

/// The tests that need no Linux guest, and the examples in the documentation.
fn run_host_tests(
    workspace: &Path,
    tests: &[Executable],
    files: &GuestFiles,
    limit: Duration,
    filter: Option<&str>,
    show: Show,
) -> Result<[Report; 2]> {
    let choice = Choice::for_host_tests();
    let runner = Runner::prepare(choice.on, limit, TEST_VCPUS)?;
    eprintln!("\nThe host tests run {}: {}.", runner.describe(), choice.reason);
    let jobs = jobs::of_tests(tests, files, filter, choice.on);
    let mut host = group::run("host tests", &runner, &Queue::new(jobs.clone()), show);
    if choice.on == On::Nested {
        host = group::retry_failed(host, &jobs, &runner);
    }
    // These need a compiler, but no KVM.
    let queue = Queue::new(vec![jobs::doc_tests(workspace, files, filter)]);
    Ok([host, group::run("doc tests", &Runner::Native, &queue, show)])
}

/// The tests that boot Linux guests, and what runs them.
struct Guests {
    queue: Queue,
    runner: Runner,
}

impl Guests {
    fn prepare(choice: &Choice, limit: Duration, jobs: Vec<Job>) -> Result<Self> {
        let runner = Runner::prepare(choice.on, limit, TEST_VCPUS)
            .context("preparing what runs Linux guests")?;
        eprintln!("\nThe Linux-guest tests run {}: {}.", runner.describe(), choice.reason);
        Ok(Self { queue: Queue::new(jobs), runner })
    }

    fn is_nested(&self) -> bool {
        matches!(self.runner, Runner::Nested { .. })
    }

    /// Runs tests until none waits; in a nested machine of its own, if they are to run in one.
    fn run(&self, show: Show) -> Report {
        group::run("Linux-guest tests", &self.runner, &self.queue, show)
    }
}

/// Whether this host has what two nested machines need.
fn room_for_two() -> bool {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    processors > 1 && available_kib(&memory).is_some_and(|kib| kib >= MEMORY_OF_TWO)
}

/// `MemAvailable` of proc_meminfo(5).
fn available_kib(text: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read() {
        let text = "MemTotal:       24000000 kB\nMemAvailable:   12345678 kB\n";
        assert_eq!(available_kib(text), Some(12_345_678));
        assert_eq!(available_kib("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_test_program_that_hangs_is_ended_and_named() {
        let mut argv = jobs::limited(1);
        argv.extend(["/bin/sh", "-c", "echo running 1 test; sleep 1000"].map(str::to_owned));
        let hangs = Job {
            label: "the one that hangs".into(),
            argv,
            directory: "/".into(),
            environment: std::collections::BTreeMap::new(),
        };
        let report =
            group::run("host tests", &Runner::Native, &Queue::new(vec![hangs]), Show::Live);
        assert!(!report.is_success());
        let text = summary(&[report]);
        assert!(text.contains("the one that hangs") && text.contains("124"), "{text}");
    }
}
