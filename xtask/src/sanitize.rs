//! Runs unit tests with AddressSanitizer, over what reads foreign bytes and keeps state.
//!
//! The standard library stays as it was shipped, which AddressSanitizer does not mind. ThreadSanitizer
//! would: it takes everything that a lock of that library protects for a race.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cargo::cargo;

/// What reads foreign bytes or keeps state, as names of tests begin.
const READERS: [&str; 8] = [
    "devices::",
    "evidence::",
    "framing::",
    "integrity::",
    "memory::",
    "registry::",
    "snapshot::file",
    "wire::",
];

/// Arguments of `cargo xtask sanitize`.
#[derive(Debug, clap::Args)]
pub struct SanitizeArgs {
    /// Arguments of the test programs, instead of the usual choice of tests
    #[arg(last = true)]
    tests: Vec<String>,
}

/// Builds and runs the tests. An error means that a test failed or that the sanitizer found
/// something.
pub fn run(arguments: &SanitizeArgs) -> Result<()> {
    let workspace = crate::workspace::root()?;
    let mut command = tests(&workspace);
    command.current_dir(&workspace).arg("--");
    if arguments.tests.is_empty() {
        command.args(READERS);
    } else {
        command.args(&arguments.tests);
    }
    let status = command.status().context("starting cargo")?;
    ensure!(status.success(), "the tests did not pass: {status}");
    Ok(())
}

/// Only crates of this workspace are compiled anew.
fn tests(workspace: &Path) -> Command {
    let mut command = Command::new(cargo());
    let packages = ["vmm", "guest"].map(|package| format!("--package={package}"));
    command
        .env("RUSTC_WORKSPACE_WRAPPER", workspace.join("tests/fuzz/address.sh"))
        .args(["test", "--locked", "--lib", "--quiet"])
        .args(packages);
    command
}
