//! Runs the attacks against the sandbox where Linux guests run, for longer than the tests do.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cargo::build;
use crate::nested::job::Job;
use crate::nested::pass_on::PassOn;
use crate::nested::{Choice, On, Queue, Runner, TEST_VCPUS};
use crate::run_tests::GuestFiles;

const PROGRAM: &str = "bsm-redteam";

/// Arguments of `cargo xtask redteam`.
#[derive(Debug, clap::Args)]
pub struct RedteamArgs {
    /// Where Linux guests run, instead of where a probe of KVM says
    #[arg(long, value_enum, env = "BSM_RUN_ON")]
    on: Option<On>,
    /// Minutes after which a nested machine is ended
    #[arg(long, default_value_t = 240, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Arguments of bsm-redteam [default: --iterations 1000]
    #[arg(last = true)]
    further: Vec<String>,
}

/// Builds and runs the attacks. An error means that one of them came through.
pub fn run(arguments: &RedteamArgs) -> Result<()> {
    let workspace = crate::workspace::root()?;
    let files = GuestFiles::build(&workspace)?;
    let program = build(&workspace, &["build", "--locked", "--package", PROGRAM])?
        .into_iter()
        .find(|executable| executable.target == PROGRAM)
        .with_context(|| format!("cargo built no {PROGRAM}"))?;
    let mut argv = vec![program.path.display().to_string(), "--image-dir".to_owned()];
    argv.push(files.attack_image.display().to_string());
    if arguments.further.is_empty() {
        argv.extend(["--iterations", "1000"].map(str::to_owned));
    }
    argv.extend(arguments.further.iter().cloned());
    let job = Job {
        label: PROGRAM.to_owned(),
        argv,
        directory: workspace,
        environment: files.environment().collect(),
    };
    let choice = Choice::make(arguments.on);
    let limit = Duration::from_secs(60 * arguments.limit);
    let runner = Runner::prepare(choice.on, limit, TEST_VCPUS)?;
    eprintln!("The attacks run {}: {}.", runner.describe(), choice.reason);
    let mut output = PassOn::default();
    runner.run(&Queue::new(vec![job]), &mut output)?;
    match output.finished.pop() {
        Some(finished) if finished.ended.is_success() => Ok(()),
        Some(finished) => bail!("{PROGRAM}: {}", finished.ended),
        None => bail!("{PROGRAM} did not run"),
    }
}
