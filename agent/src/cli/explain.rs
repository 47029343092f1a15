//! `brainstorm-agent explain`

use std::process::ExitCode;

use clap::Args;

use super::terminal;
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
    terminal::show(&explanation, arguments.json, || explanation.in_words())
}
