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
    say(&format_args!("{} {error}", console::style("error:").red().bold().for_stderr()));
    exit.into()
}

/// Prints a line on standard error. Where that cannot be written, there is no better place to say so.
pub fn say(line: &dyn Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints bytes on standard output as they are.
///
/// # Errors
///
/// Standard output cannot be written. A reader that has closed it is none: what the command did
/// stands, and so does its exit code.
pub fn print(bytes: &[u8]) -> io::Result<()> {
    write_to(&mut io::stdout().lock(), bytes)
}

/// Prints bytes on standard error as they are.
///
/// # Errors
///
/// As for [`print()`].
pub fn print_error(bytes: &[u8]) -> io::Result<()> {
    write_to(&mut io::stderr().lock(), bytes)
}

fn write_to(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Prints a value as JSON on standard output.
///
/// # Errors
///
/// As for [`print()`].
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
