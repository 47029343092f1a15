//! Talking to a person.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use console::Term;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::Exit;

/// Widest table: longer lines are hard to read.
const MAX_WIDTH: u16 = 110;

/// Prints an error and gives the exit code for it.
pub fn complain(error: &dyn Display, exit: Exit) -> ExitCode {
    eprintln!("{} {error}", console::style("error:").red().bold().for_stderr());
    exit.into()
}

/// Prints bytes on standard output as they are.
pub fn print(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Prints a value as JSON on standard output.
pub fn print_json(value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    print(&text)
}

/// Prints an answer, for a program or for a person, and gives the exit code for that.
pub fn show(answer: &impl Serialize, json: bool, in_words: impl FnOnce() -> String) -> ExitCode {
    let printed = if json { print_json(answer) } else { print(in_words().as_bytes()) };
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error, Exit::ExecutorFailed),
    }
}

/// Width for tables on standard output.
pub fn width() -> u16 {
    Term::stdout().size_checked().map_or(MAX_WIDTH, |(_, columns)| columns.min(MAX_WIDTH))
}

/// A spinner on standard error; nothing when that is not a terminal.
pub fn spinner(text: &'static str) -> ProgressBar {
    if !console::user_attended_stderr() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(text);
    bar.enable_steady_tick(Duration::from_millis(80));
    bar
}
