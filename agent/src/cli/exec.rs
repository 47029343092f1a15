//! `brainstorm-agent exec`

mod params;
mod report;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;

use super::{Exit, terminal};
use crate::config::Config;
use report::{ExecFailure, Success, Timings};
use sandbox::{BootReport, KvmSandbox, Resets, Sandbox, SandboxError, ToolCall, ToolOutcome};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Tool to run; `brainstorm-agent tools` lists them.
    tool: String,

    /// Parameters as a JSON object.
    #[arg(long, value_name = "JSON", conflicts_with = "param")]
    params: Option<String>,

    /// One parameter; can be repeated.
    #[arg(short, long, value_name = "KEY=VALUE")]
    param: Vec<String>,

    /// Milliseconds the tool may take [default: 30000, or the tool's own limit if that is less].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    deadline_ms: Option<i64>,

    /// Start from a snapshot made by `snapshot create` instead of booting.
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,

    /// Print the result as JSON.
    #[arg(long)]
    json: bool,

    /// Say on standard error how long each phase took.
    #[arg(long)]
    timings: bool,
}

/// What became of the call, and of the boot before it.
struct Ran {
    boot: Option<BootReport>,
    result: Result<ToolOutcome, (Exit, SandboxError)>,
}

pub fn run(arguments: Arguments, config: Config) -> ExitCode {
    let params = match params::read(&arguments, &config.sandbox.image) {
        Ok(params) => params,
        Err(error) => return terminal::complain(&error, Exit::Usage),
    };
    let mut call = ToolCall::new(arguments.tool, params);
    if let Some(deadline_ms) = arguments.deadline_ms {
        call.deadline_ms = deadline_ms;
    }
    let id = call.command_id.clone();
    let begun = Instant::now();
    let ran = boot_and_run(config, call, arguments.snapshot.as_deref());
    let timings = Timings::new(ran.boot.as_ref(), ran.result.as_ref().ok(), begun.elapsed());

    let printed = match (&ran.result, arguments.json) {
        (Ok(outcome), true) => terminal::print_json(&Success::new(&id, outcome, &timings)),
        (Ok(outcome), false) => pass_on(&outcome.stdout, &outcome.stderr),
        (Err((_, error)), true) => terminal::print_json(&ExecFailure::new(&id, error, &timings)),
        (Err((_, error)), false) => pass_on_partial(error),
    };
    if arguments.timings {
        terminal::say(&timings.table().trim_end());
    }
    if let Err(error) = printed {
        return terminal::complain(&error, Exit::ExecutorFailed);
    }
    match ran.result {
        Ok(outcome) => {
            explain(&outcome);
            exit_code(outcome.exit_code)
        }
        Err((exit, error)) => terminal::complain(&format!("{error} ({})", error.code()), exit),
    }
}

fn boot_and_run(config: Config, call: ToolCall, snapshot: Option<&Path>) -> Ran {
    let sandbox = match snapshot {
        Some(file) => match KvmSandbox::from_snapshot(config.sandbox, config.kvm, file) {
            Ok(sandbox) => sandbox,
            Err(error) => return Ran { boot: None, result: Err((Exit::BootFailed, error)) },
        },
        // One tool, then the machine goes: there is nothing to reset to.
        None => KvmSandbox::new(config.sandbox.with_resets(Resets::None), config.kvm),
    };
    let spinner = terminal::spinner("booting the microVM");
    let boot = match sandbox.boot() {
        Ok(boot) => boot,
        Err(error) => {
            spinner.finish_and_clear();
            return Ran { boot: None, result: Err((Exit::BootFailed, error)) };
        }
    };
    spinner.set_message("running the tool");
    let result = sandbox.execute_tool(call);
    spinner.finish_and_clear();
    sandbox.shutdown();
    let result = result.map_err(|error| (Exit::of_call(&error), error));
    Ran { boot: Some(boot), result }
}

/// The tool's bytes, each where the tool wrote them.
fn pass_on(stdout: &[u8], stderr: &[u8]) -> io::Result<()> {
    terminal::print(stdout)?;
    terminal::print_error(stderr)
}

fn pass_on_partial(error: &SandboxError) -> io::Result<()> {
    match error {
        SandboxError::ToolTimeout { partial, .. } => pass_on(&partial.stdout, &partial.stderr),
        _ => Ok(()),
    }
}

/// What the tool itself did not say.
fn explain(outcome: &ToolOutcome) {
    let label = console::style("note:").yellow().for_stderr();
    if let Some(message) = &outcome.message {
        terminal::say(&format_args!("{label} {message}"));
    }
    let cut = [
        ("output", outcome.stdout_truncated, outcome.stdout.len(), outcome.stdout_total),
        ("error output", outcome.stderr_truncated, outcome.stderr.len(), outcome.stderr_total),
    ];
    for (what, _, kept, total) in cut.into_iter().filter(|(_, truncated, ..)| *truncated) {
        terminal::say(&format_args!("{label} {what} was cut: {kept} of {total} bytes are shown"));
    }
}

/// The tool's own, as far as a process can pass it on.
fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).map_or_else(|_| Exit::ExecutorFailed.into(), ExitCode::from)
}
