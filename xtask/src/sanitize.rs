//! Runs unit tests with a sanitizer: AddressSanitizer over what handles foreign bytes,
//! ThreadSanitizer over what runs on several threads.
//!
//! The standard library is as it was shipped, without instrumentation, because its source is not
//! part of every toolchain. AddressSanitizer does not mind. ThreadSanitizer sees less of what the
//! library does: what it reports has to be looked at with that in mind.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::run_tests::cargo;

/// What reads foreign bytes or keeps state, as names of tests begin.
const READERS: [&str; 12] = [
    "baselines::",
    "devices::",
    "dispatch::policy",
    "evidence::",
    "framing::",
    "integrity::",
    "memory::",
    "protocol::",
    "registry::",
    "sandbox::channel",
    "store::",
    "wire::",
];
/// What several threads use at once.
const THREADED: [&str; 2] = ["devices::vsock", "memory::"];

/// Arguments of `cargo xtask sanitize`.
#[derive(Debug, clap::Args)]
pub struct SanitizeArgs {
    /// Which sanitizer
    #[arg(value_enum, default_value_t = Sanitizer::Address)]
    sanitizer: Sanitizer,
    /// Arguments of the test programs, instead of the usual choice of tests
    #[arg(last = true)]
    tests: Vec<String>,
}

/// Sanitizers that come with the compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sanitizer {
    /// Memory errors and leaks, in the library tests of vmm, guest and agent
    Address,
    /// Data races, in the library tests of vmm
    Thread,
}

/// Builds and runs the tests. An error means that a test failed or that the sanitizer found
/// something.
pub fn run(arguments: &SanitizeArgs) -> Result<()> {
    let workspace = crate::workspace::root()?;
    let (mut command, usual) = match arguments.sanitizer {
        Sanitizer::Address => (address(&workspace), READERS.as_slice()),
        Sanitizer::Thread => (thread()?, THREADED.as_slice()),
    };
    command.current_dir(&workspace).arg("--");
    if arguments.tests.is_empty() {
        command.args(usual);
    } else {
        command.args(&arguments.tests);
    }
    let status = command.status().context("starting cargo")?;
    ensure!(status.success(), "the tests did not pass: {status}");
    Ok(())
}

/// Only crates of this workspace are compiled anew.
fn address(workspace: &Path) -> Command {
    let mut command = Command::new(cargo());
    let packages =
        ["vmm", "guest", "brainstorm-agent"].map(|package| format!("--package={package}"));
    command
        .env("RUSTC_WORKSPACE_WRAPPER", workspace.join("tests/fuzz/address.sh"))
        .args(["test", "--lib", "--quiet"])
        .args(packages);
    command
}

/// Everything is compiled anew, beside what other builds have made.
fn thread() -> Result<Command> {
    let mut command = Command::new(cargo());
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer")
        .env("CARGO_TARGET_DIR", crate::workspace::target_dir()?.join("thread-sanitizer"))
        .env("TSAN_OPTIONS", "halt_on_error=0 second_deadlock_stack=1")
        .args(["test", "--lib", "--quiet", "--package=vmm"]);
    Ok(command)
}
