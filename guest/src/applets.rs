//! Small tools that busybox does not have, under their own names in `/usr/bin`.

mod json_query;
mod say;
mod write_file;

use std::process::ExitCode;

/// Takes the arguments without the program's name.
pub type Applet = fn(&[String]) -> ExitCode;

/// The applet called `name`.
pub fn find(name: &str) -> Option<Applet> {
    match name {
        "json-query" => Some(json_query::run),
        "say" => Some(say::run),
        "write-file" => Some(write_file::run),
        _ => None,
    }
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
