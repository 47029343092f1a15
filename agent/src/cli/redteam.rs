//! `brainstorm-agent redteam`: names its successor. The attacks are no part of a shipped agent.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;

use super::{Exit, terminal};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Any arguments: none of them counts
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<OsString>,
}

/// Says which program attacks the sandbox.
pub fn run(arguments: &Arguments) -> ExitCode {
    let mut command = OsString::from("bsm-redteam");
    for argument in &arguments.rest {
        command.push(" ");
        command.push(argument);
    }
    let error = format!(
        "the attacks are a program of their own; run `{}` from a build of this project's sources",
        command.display()
    );
    terminal::complain(&error, Exit::Usage)
}
