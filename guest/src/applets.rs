//! Small tools that busybox does not have, under their own names in `/usr/bin`.

mod json_query;
mod say;
mod write_file;

use std::process::ExitCode;

/// Takes the arguments without the program's name.
pub type Applet = fn(&[String]) -> ExitCode;

/// Every applet with its name. The image gets a symbolic link for each, and the guest program looks
/// itself up by the name it was started under.
pub const APPLETS: &[(&str, Applet)] =
    &[("json-query", json_query::run), ("say", say::run), ("write-file", write_file::run)];

/// The applet called `name`.
pub fn find(name: &str) -> Option<Applet> {
    APPLETS.iter().find(|(known, _)| *known == name).map(|(_, applet)| *applet)
}

/// Turns an error into one line on stderr and exit code 1.
fn report(program: &str, result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{program}: {message}");
            ExitCode::FAILURE
        }
    }
}
