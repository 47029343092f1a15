//! `brainstorm-agent explain`

use std::process::ExitCode;

use clap::Args;

use super::{Exit, terminal};
use crate::config::Config;
use crate::degraded::explain::explain;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

/// Needs no running agent.
pub fn run(arguments: &Arguments, config: &Config) -> ExitCode {
    let explanation = explain(&config.run.state_dir);
    let printed = if arguments.json {
        terminal::print_json(&explanation)
    } else {
        terminal::print(explanation.in_words().as_bytes())
    };
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => terminal::complain(&error, Exit::ExecutorFailed),
    }
}
