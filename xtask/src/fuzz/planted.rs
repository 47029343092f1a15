//! A target with a bug in it has to be seen to fail: a harness that finds nothing shows nothing.

use std::process::Stdio;

use anyhow::{Result, bail, ensure};

use super::Limits;
use super::run::Fuzzer;

/// The target. It belongs to no directory of seeds, so that it runs only when it is asked for.
pub const TARGET: &str = "planted";
/// Takes a second or two; more on a machine with much to do.
const LIMITS: Limits = Limits { seconds: Some(120), executions: None };

/// Its bug is found and told, and the input that is kept shows it again.
pub fn check(fuzzer: &Fuzzer) -> Result<()> {
    let outcome = fuzzer.run(TARGET, LIMITS)?;
    let found = outcome.found.as_deref().unwrap_or("nothing");
    ensure!(found.contains("planted.rs"), "the bug of target {TARGET}: found {found}");
    let [input] = outcome.inputs.as_slice() else {
        bail!("the input that shows the bug of target {TARGET} was not kept: {outcome:?}");
    };
    let again = fuzzer.reproduce(TARGET, input, Stdio::null());
    ensure!(again.is_err(), "target {TARGET} comes through {}, which it failed", input.display());
    Ok(())
}
