//! `cargo xtask nested`: one command in the nested machine, for people who look into a failure.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use super::job::Job;
use super::pass_on::PassOn;
use super::{BENCH_VCPUS, NestedMachine, Queue};

/// Arguments of `cargo xtask nested`.
#[derive(Debug, clap::Args)]
pub struct NestedArgs {
    /// Minutes after which the machine is ended
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Emulated processors; with more than one, a guest is lost now and then
    #[arg(long, default_value_t = BENCH_VCPUS, value_parser = clap::value_parser!(u32).range(1..=8))]
    processors: u32,
    /// The command and its arguments; it runs in the current directory
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs the command and returns its exit status as a shell would.
pub fn run(arguments: &NestedArgs) -> Result<ExitCode> {
    let job = Job {
        label: arguments.command.join(" "),
        argv: arguments.command.clone(),
        directory: std::env::current_dir().context("finding the current directory")?,
        environment: [].into(),
    };
    let machine = NestedMachine::prepare(arguments.processors)?;
    let mut output = PassOn::default();
    machine.run(&Queue::new(vec![job]), Duration::from_secs(60 * arguments.limit), &mut output)?;
    let ended = output.finished.pop().context("the command did not run")?.ended;
    if !ended.is_success() {
        eprintln!("{ended}");
    }
    Ok(ExitCode::from(ended.shell_status()))
}
