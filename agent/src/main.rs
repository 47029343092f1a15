//! The `brainstorm-agent` command.

use std::process::ExitCode;

use brainstorm_agent::cli::Cli;

fn main() -> ExitCode {
    Cli::from_arguments().run()
}
