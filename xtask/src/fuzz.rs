//! Builds the fuzz targets and runs each for a while.
//!
//! The engine is libFuzzer, compiled by the system's C++ compiler; the counters come from a wrapper
//! around rustc (`tests/fuzz/instrument.sh`). Nothing else has to be installed.

mod outcome;
mod run;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::outcome::table;
use self::run::Fuzzer;
use crate::run_tests::{Executable, Report, Tally, build_with};

const PACKAGE: &str = "tests/fuzz";
/// Starts from a snapshot of a machine, which it has to make first.
const NEEDS_KVM: [&str; 1] = ["snapshot_file"];
/// Of each target, when it runs among the tests.
const SECONDS_AMONG_TESTS: u64 = 6;

/// Arguments of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub struct FuzzArgs {
    /// Targets to run; all when none is named
    targets: Vec<String>,
    /// Seconds each of them runs
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Targets that run at the same time [default: number of processors]
    #[arg(long)]
    jobs: Option<usize>,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
    /// Give this file to the one target that is named, once, and nothing else
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

/// Fuzzes. An error means that something was found, or that nothing ran.
pub fn run(arguments: &FuzzArgs) -> Result<()> {
    let fuzzer = Fuzzer::build()?;
    let targets = if arguments.targets.is_empty() {
        all_targets()?
    } else {
        for name in &arguments.targets {
            ensure!(
                all_targets()?.contains(name),
                "there is no target {name}: see {PACKAGE}/seeds"
            );
        }
        arguments.targets.clone()
    };
    if let Some(input) = &arguments.input {
        let [target] = targets.as_slice() else { bail!("--input goes with one target") };
        return fuzzer.reproduce(target, input);
    }
    let outcomes = fuzzer.run_all(&targets, arguments.seconds, arguments.jobs);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&outcomes)?);
    } else {
        eprint!("\n{}", table(&outcomes));
    }
    let failed: Vec<&str> =
        outcomes.iter().filter(|one| one.has_failed()).map(|one| one.target.as_str()).collect();
    ensure!(failed.is_empty(), "something was found by {}", failed.join(", "));
    ensure!(outcomes.iter().any(|one| one.executions > 0), "nothing ran");
    Ok(())
}

/// A short run of every target, as one group of tests.
pub fn among_tests() -> Report {
    let begun = Instant::now();
    let mut report = Report::empty("fuzz targets", "natively");
    // The same every time, as far as time allows: a test that fails is to fail again.
    let ran = Fuzzer::build().and_then(|mut fuzzer| {
        fuzzer.seed = Some(1);
        Ok(fuzzer.run_all(&all_targets()?, SECONDS_AMONG_TESTS, None))
    });
    match ran {
        Ok(outcomes) => {
            eprint!("\n{}", table(&outcomes));
            for outcome in outcomes {
                report.tally += Tally {
                    passed: u64::from(outcome.executions > 0 && !outcome.has_failed()),
                    failed: u64::from(outcome.has_failed()),
                    ignored: u64::from(outcome.skipped.is_some()),
                };
                report.troubles.extend(outcome.trouble());
            }
        }
        Err(error) => report.troubles.push(format!("{error:#}")),
    }
    report.took = begun.elapsed();
    report
}

fn all_targets() -> Result<Vec<String>> {
    let directory = crate::workspace::root()?.join(PACKAGE).join("seeds");
    let mut names = Vec::new();
    for entry in directory.read_dir().with_context(|| format!("reading {}", directory.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The program with all targets in it.
fn build_program(workspace: &Path) -> Result<PathBuf> {
    let wrapper = workspace.join(PACKAGE).join("instrument.sh");
    let arguments = ["build", "--package", "fuzz-targets", "--features", "engine", "--bin", "fuzz"];
    let environment = [("RUSTC_WORKSPACE_WRAPPER", wrapper.as_os_str())];
    build_with(workspace, &arguments, &environment)?
        .into_iter()
        .find(|executable: &Executable| executable.target == "fuzz")
        .map(|executable| executable.path)
        .context("cargo built no fuzzing program")
}

/// Longest that one target may take beyond its time: to start, and to end what it is at.
const GRACE: Duration = Duration::from_secs(120);
