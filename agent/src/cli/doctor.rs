//! `brainstorm-agent doctor`

use std::process::ExitCode;

use clap::Args;

use super::{Exit, terminal};
use crate::config::Config;
use crate::doctor::{Drawing, assess, gather, render};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments, config: &Config) -> ExitCode {
    let report = assess(&gather(&config.sandbox));
    let printed = if arguments.json {
        terminal::print_json(&report)
    } else {
        let drawing = Drawing { colour: console::colors_enabled(), width: terminal::width() };
        terminal::print(render(&report, drawing).as_bytes())
    };
    match printed {
        Err(error) => terminal::complain(&error, Exit::ExecutorFailed),
        Ok(()) if report.fit => ExitCode::SUCCESS,
        Ok(()) => Exit::Unfit.into(),
    }
}
