//! The `brainstorm-agent` command.

use std::process::ExitCode;

use brainstorm_agent::cli::Cli;
use clap::Parser;

fn main() -> ExitCode {
    Cli::parse().run()
}
