//! Says what takes long: a spinner on a terminal, plain lines with times elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const REDRAW: Duration = Duration::from_millis(120);

/// One step under way. Dropped without [`Step::done`], it is shown as failed.
#[derive(Debug)]
pub struct Step {
    what: String,
    started: Instant,
    spinner: Option<ProgressBar>,
    done: bool,
}

/// Starts a step and shows it on standard error.
pub fn step(what: impl Into<String>) -> Step {
    let what = what.into();
    let spinner = console::user_attended_stderr().then(|| {
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
        let spinner = ProgressBar::new_spinner().with_message(what.clone());
        spinner.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        spinner.enable_steady_tick(REDRAW);
        spinner
    });
    if spinner.is_none() {
        eprintln!("{what} ...");
    }
    Step { what, started: Instant::now(), spinner, done: false }
}

impl Step {
    /// Ends the step as done.
    pub fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        let word = if self.done { "done" } else { "FAILED" };
        eprintln!("{}: {word} ({:.1} s)", self.what, self.started.elapsed().as_secs_f64());
    }
}
