//! Diagnostics, on standard error only.

use std::io;

use tracing_subscriber::EnvFilter;

/// Variable with a filter such as `debug` or `sandbox=trace`.
const VARIABLE: &str = "BSM_LOG";

/// Starts logging. `verbose`: how often `--verbose` was given; it counts when the variable is not
/// set. A service says more from the start, and says it as JSON to whatever is no terminal.
pub fn start(verbose: u8, service: bool) {
    let level = match verbose.saturating_add(service.into()) {
        0 => "error",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = std::env::var(VARIABLE).unwrap_or_default();
    let filter = if filter.is_empty() { level.to_owned() } else { filter };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(io::stderr)
        // It would complain on standard error, and panic where that cannot be written either.
        .log_internal_errors(false)
        .with_ansi(console::colors_enabled_stderr());
    let started = if service && !console::user_attended_stderr() {
        logs.json().flatten_event(true).try_init()
    } else {
        logs.try_init()
    };
    // A second start in one process keeps the first, as tests need.
    drop(started);
}
