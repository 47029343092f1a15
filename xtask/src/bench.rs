//! Runs every benchmark: those that need no Linux guest here at native speed, the others where Linux
//! guests run.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cargo::build;
use crate::nested::job::Job;
use crate::nested::pass_on::PassOn;
use crate::nested::{BENCH_VCPUS, Choice, On, Queue, Runner};
use crate::run_tests::GuestFiles;

/// Benchmarks of `benches` that run on any KVM, or without one.
const NATIVE: [&str; 7] =
    ["boot", "resets", "checks", "signatures", "stores", "accept", "deliveries"];
/// Benchmarks of `benches` with Linux guests.
const LINUX: [&str; 3] = ["guest", "pages", "commands"];
/// Benchmarks that talk to an agent without machines.
const WITH_AGENT: [&str; 2] = ["accept", "deliveries"];
/// That agent.
const WITHOUT_MACHINES: &str = "agent-under-test";

/// Arguments of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Only the benchmarks that need no Linux guest
    #[arg(long, conflicts_with = "linux")]
    native: bool,
    /// Only the benchmarks with Linux guests
    #[arg(long)]
    linux: bool,
    /// Only this benchmark; may be repeated
    #[arg(long, value_name = "BENCHMARK", value_parser = known)]
    only: Vec<String>,
    /// Print results as JSON, one document for each benchmark
    #[arg(long)]
    json: bool,
    /// Where Linux guests run, instead of where a probe of KVM says
    #[arg(long, value_enum, env = "BSM_RUN_ON")]
    on: Option<On>,
    /// Minutes after which a nested machine is ended
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Further arguments of the benchmark named with --only
    #[arg(last = true, requires = "only")]
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
    let wanted = |part: &&&str| {
        arguments.only.is_empty() || arguments.only.iter().any(|only| only == **part)
    };
    let native: Vec<_> = NATIVE.iter().filter(|_| !arguments.linux).filter(wanted).collect();
    let linux: Vec<_> = LINUX.iter().filter(|_| !arguments.native).filter(wanted).collect();
    let job = |part: &str, positional: Option<String>| {
        let mut argv = vec![program.path.display().to_string(), part.to_owned()];
        argv.extend(positional);
        argv.extend(arguments.json.then(|| "--json".to_owned()));
        argv.extend(arguments.further.iter().cloned());
        Job {
            label: format!("benches {part}"),
            argv,
            directory: workspace.clone(),
            environment: files.environment().collect(),
        }
    };
    if !native.is_empty() {
        eprintln!("Benchmarks without a Linux guest run here.");
    }
    for &&part in &native {
        let with_agent = WITH_AGENT.contains(&part);
        let positional = if with_agent { Some(agent_without_machines(&workspace)?) } else { None };
        run_one(&Runner::Native, job(part, positional))?;
    }
    if !linux.is_empty() {
        let choice = Choice::make(arguments.on);
        let runner =
            Runner::prepare(choice.on, Duration::from_secs(60 * arguments.limit), BENCH_VCPUS)?;
        eprintln!("Benchmarks with Linux guests run {}: {}.", runner.describe(), choice.reason);
        if choice.on == On::Nested {
            eprintln!("Times from there mean nothing by themselves, only next to each other.");
        }
        for &&part in &linux {
            run_one(&runner, job(part, None))?;
        }
    }
    Ok(())
}

fn known(name: &str) -> Result<String, String> {
    if NATIVE.iter().chain(&LINUX).any(|benchmark| *benchmark == name) {
        return Ok(name.to_owned());
    }
    Err(format!("choose one of {}, {}", NATIVE.join(", "), LINUX.join(", ")))
}

/// Builds the agent that [`WITH_AGENT`] talk to: everything of it is real but its machines. Cargo is asked
/// for it alone, so that the features of the tests reach no other benchmark.
fn agent_without_machines(workspace: &Path) -> Result<String> {
    let arguments = [
        "build",
        "--locked",
        "--release",
        "--package",
        "integration-tests",
        "--bin",
        WITHOUT_MACHINES,
    ];
    let built = build(workspace, &arguments)?
        .into_iter()
        .find(|built| built.target == WITHOUT_MACHINES)
        .with_context(|| format!("cargo built no {WITHOUT_MACHINES}"))?;
    Ok(built.path.display().to_string())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_benchmark_has_its_place() {
        let main = include_str!("../../benches/src/main.rs");
        let (_, variants) = main.split_once("enum Benchmark {").unwrap();
        let (variants, _) = variants.split_once("\n}").unwrap();
        let mut declared: Vec<String> = variants
            .lines()
            .filter_map(|line| line.strip_prefix("    "))
            .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
            .map(|line| line.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_lowercase())
            .collect();
        let mut run: Vec<&str> = NATIVE.into_iter().chain(LINUX).collect();
        declared.sort_unstable();
        run.sort_unstable();
        assert_eq!(declared, run);
        assert!(known("accept").is_ok() && known("all").is_err());
    }
}
