//! `write-file PATH CONTENT`: creates or replaces a file.

use std::process::ExitCode;

pub fn run(arguments: &[String]) -> ExitCode {
    let result = match arguments {
        [path, content] => std::fs::write(path, content).map_err(|e| format!("{path}: {e}")),
        _ => Err("usage: write-file PATH CONTENT".into()),
    };
    super::report("write-file", result)
}
