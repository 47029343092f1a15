//! `say MESSAGE`: prints its argument as it is. Shells' `echo` takes some messages for options.

use std::io::Write;
use std::process::ExitCode;

pub fn run(arguments: &[String]) -> ExitCode {
    let message = arguments.join(" ");
    let result = writeln!(std::io::stdout(), "{message}").map_err(|e| e.to_string());
    super::report("say", result)
}
