//! Runs the benchmarks: those that need no Linux guest here at native speed, the others where
//! Linux guests run.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cargo::build;
use crate::nested::job::Job;
use crate::nested::pass_on::PassOn;
use crate::nested::{BENCH_VCPUS, Choice, On, Queue, Runner};
use crate::run_tests::GuestFiles;

/// Arguments of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Only the benchmarks that need no Linux guest
    #[arg(long, conflicts_with = "linux")]
    native: bool,
    /// Only the benchmarks with Linux guests
    #[arg(long)]
    linux: bool,
    /// Print results as JSON, one document for each part
    #[arg(long)]
    json: bool,
    /// Where Linux guests run, instead of where a probe of KVM says
    #[arg(long, value_enum, env = "BSM_RUN_ON")]
    on: Option<On>,
    /// Minutes after which a nested machine is ended
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Further arguments of the benchmark program
    #[arg(last = true)]
    further: Vec<String>,
}

/// Builds and runs the benchmark program. Fails where it fails.
pub fn run(arguments: &BenchArgs) -> Result<()> {
    let workspace = crate::workspace::root()?;
    let files = GuestFiles::build(&workspace)?;
    let program = build(&workspace, &["build", "--locked", "--package", "benches", "--release"])?
        .into_iter()
        .find(|executable| executable.package == "benches" && executable.kind == "bin")
        .context("cargo built no benchmark program")?;
    let job = |part: &str| {
        let mut argv = vec![program.path.display().to_string(), part.to_owned()];
        argv.extend(arguments.json.then(|| "--json".to_owned()));
        argv.extend(arguments.further.iter().cloned());
        Job {
            label: format!("benches {part}"),
            argv,
            directory: workspace.clone(),
            environment: files.environment().collect(),
        }
    };
    if !arguments.linux {
        eprintln!("Benchmarks without a Linux guest run here.");
        for part in ["boot", "resets"] {
            run_one(&Runner::Native, job(part))?;
        }
    }
    if !arguments.native {
        let choice = Choice::make(arguments.on);
        let runner =
            Runner::prepare(choice.on, Duration::from_secs(60 * arguments.limit), BENCH_VCPUS)?;
        eprintln!("Benchmarks with Linux guests run {}: {}.", runner.describe(), choice.reason);
        if choice.on == On::Nested {
            eprintln!("Times from there mean nothing by themselves, only next to each other.");
        }
        run_one(&runner, job("guest"))?;
    }
    Ok(())
}

fn run_one(runner: &Runner, job: Job) -> Result<()> {
    let mut output = PassOn::default();
    let label = job.label.clone();
    let queue = Queue::new(vec![job]);
    runner.run(&queue, &mut output)?;
    match output.finished.pop() {
        Some(finished) if finished.ended.is_success() => Ok(()),
        Some(finished) => bail!("{}: {}", label, finished.ended),
        None => bail!("{label} did not run"),
    }
}
