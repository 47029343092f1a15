//! The command line: serve, or act as an operator or an administrator of a relay that serves.

mod dispatch;
mod journal;
mod ready;
mod serve;
mod token;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  dev-relay --ready-file relay.json
  dev-relay token --ready-file relay.json
  dev-relay dispatch --ready-file relay.json --endpoint ID echo -p message=hello --yes

Exit codes of `dispatch`:
  0  completed               3  not let in, or the endpoint is not connected
  1  the tool failed         4  no acknowledgement, or no end in time
  2  declined, wrong usage   5  anything else";

/// A relay to try the agent against. It keeps everything in memory and serves this machine only.
#[derive(Debug, Parser)]
#[command(name = "dev-relay", version, about, after_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(flatten)]
    serve: serve::Arguments,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a tool on an endpoint: shows the preview, asks, prints the result.
    Dispatch(dispatch::Arguments),
    /// Get a bootstrap token to enroll an endpoint with.
    Token(token::Arguments),
}

impl Cli {
    /// Does what was asked for and gives the exit code.
    pub fn run(self) -> ExitCode {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return complain(&error, 5),
        };
        runtime.block_on(async {
            match self.command {
                None => serve::run(self.serve).await,
                Some(Command::Dispatch(arguments)) => dispatch::run(arguments).await,
                Some(Command::Token(arguments)) => token::run(arguments).await,
            }
        })
    }
}

/// Says what is wrong on standard error.
fn complain(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("dev-relay: {error}");
    ExitCode::from(code)
}

/// Prints a line. Whoever closed standard output wants no more of it.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Text of others, without what a terminal would obey.
fn printable(text: &str) -> String {
    let harmless = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    text.chars().map(harmless).collect()
}
