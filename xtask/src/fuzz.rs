//! Builds the fuzz targets and runs each for a while.
//!
//! The engine is libFuzzer, compiled by the system's C++ compiler; the counters come from a wrapper
//! around rustc (`tests/fuzz/instrument.sh`). Nothing else has to be installed.

mod outcome;
mod planted;
mod run;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

pub use self::outcome::TargetOutcome;
use self::outcome::table;
use self::run::Fuzzer;
use crate::cargo::{Executable, build_with};

const PACKAGE: &str = "tests/fuzz";
/// Starts from a snapshot of a machine, which it has to make first.
const NEEDS_KVM: [&str; 1] = ["snapshot_file"];
/// Of each target, when nothing else is said.
const SECONDS: u64 = 60;
/// Longest input of targets that look at no more than that, or in which more only repeats what a
/// driver can do; of the others, what the engine takes by itself.
const LONGEST: [(&str, u32); 7] = [
    ("agent_frames", 2600),
    ("block_chains", 1024),
    ("rng_chains", 1024),
    ("snapshot_file", 321),
    ("stores", 109),
    ("vsock_chains", 1024),
    ("vsock_connections", 1024),
];
/// Of each target, when it runs among the tests.
const SECONDS_AMONG_TESTS: u64 = 6;

/// Arguments of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub struct FuzzArgs {
    /// Targets to run; all when none is named
    targets: Vec<String>,
    /// Seconds each of them runs at most [default: 60, without --executions]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Inputs each of them is given at most
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    executions: Option<u32>,
    /// Without AddressSanitizer: several times as many inputs a second, but an error of unsafe code
    /// is only seen where it crashes
    #[arg(long)]
    unsanitized: bool,
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

/// When a target has run for long enough: at the first of these.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub seconds: Option<u64>,
    pub executions: Option<u32>,
}

/// How the targets are built.
#[derive(Debug, Clone, Copy)]
pub struct Build {
    profile: &'static str,
    sanitized: bool,
}

/// Fuzzes. An error means that something was found, or that nothing ran.
pub fn run(arguments: &FuzzArgs) -> Result<()> {
    let fuzzer = Fuzzer::build(Build { profile: "fuzz", sanitized: !arguments.unsanitized })?;
    let targets = if arguments.targets.is_empty() {
        all_targets()?
    } else {
        for name in &arguments.targets {
            ensure!(
                name == planted::TARGET || all_targets()?.contains(name),
                "there is no target {name}: see {PACKAGE}/seeds"
            );
        }
        arguments.targets.clone()
    };
    if let Some(input) = &arguments.input {
        let [target] = targets.as_slice() else { bail!("--input goes with one target") };
        return fuzzer.reproduce(target, input, Stdio::inherit());
    }
    let outcomes = fuzzer.run_all(&targets, arguments.limits(), arguments.jobs);
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

/// A short run of every target, the same every time as far as time allows: what fails is to fail
/// again.
pub fn among_tests() -> Result<Vec<TargetOutcome>> {
    let limits = Limits { seconds: Some(SECONDS_AMONG_TESTS), executions: None };
    let mut fuzzer = Fuzzer::build(Build { profile: "dev", sanitized: true })?;
    fuzzer.seed = Some(1);
    planted::check(&fuzzer)?;
    let outcomes = fuzzer.run_all(&all_targets()?, limits, None);
    eprint!("\n{}", table(&outcomes));
    Ok(outcomes)
}

impl FuzzArgs {
    fn limits(&self) -> Limits {
        let Self { seconds, executions, .. } = *self;
        Limits { seconds: seconds.or(executions.is_none().then_some(SECONDS)), executions }
    }
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
fn build_program(workspace: &Path, how: Build) -> Result<PathBuf> {
    let wrapper = if how.sanitized { "instrument.sh" } else { "count.sh" };
    let wrapper = workspace.join(PACKAGE).join(wrapper);
    let arguments = [
        "build",
        "--locked",
        "--package=fuzz-targets",
        "--features=engine",
        "--bin=fuzz",
        "--profile",
        how.profile,
    ];
    let environment = [("RUSTC_WORKSPACE_WRAPPER", wrapper.as_os_str())];
    build_with(workspace, &arguments, &environment)?
        .into_iter()
        .find(|executable: &Executable| executable.target == "fuzz")
        .map(|executable| executable.path)
        .context("cargo built no fuzzing program")
}

/// Longest that one target may take beyond its time: to start, and to end what it is at.
const GRACE: Duration = Duration::from_secs(120);
