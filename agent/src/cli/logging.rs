//! Diagnostics, on standard error only.

use std::io;

use tracing_subscriber::EnvFilter;

/// Variable with a filter such as `debug` or `brainstorm_agent::sandbox=trace`.
const VARIABLE: &str = "BSM_LOG";

/// Starts logging. `verbose`: how often `--verbose` was given; it counts when the variable is not
/// set.
pub fn start(verbose: u8) {
    let level = match verbose {
        0 => "error",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = std::env::var(VARIABLE).unwrap_or_default();
    let filter = if filter.is_empty() { level.to_owned() } else { filter };
    let started = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(io::stderr)
        .with_ansi(console::colors_enabled_stderr())
        .try_init();
    // A second start in one process keeps the first, as tests need.
    drop(started);
}
