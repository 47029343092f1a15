//! `brainstorm-agent clear`

use std::process::ExitCode;

use clap::Args;
use thiserror::Error;

use super::{Exit, terminal};
use crate::commands::Clearance;
use crate::config::Config;
use crate::degraded::{ClearError, DegradedMode, IncidentRecord};
use crate::service::{ClearAnswer, ControlError, ask_to_clear};
use crate::store::{AuditEntry, AuditLog, Channel, StateDir, StateDirError, StoreError};
use protocol::timestamp::Timestamp;

/// Most characters of a reason or a name.
const MAX_CHARS: usize = 1000;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Why commands may be served again: what it was, and what was done about it.
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// Who decides that [default: the user who runs this].
    #[arg(long, value_name = "NAME")]
    operator: Option<String>,
}

#[derive(Debug, Error)]
enum ClearFailure {
    #[error("say why: --reason \"what it was, and what was done about it\"")]
    NoReason,
    #[error("the {0} is longer than {MAX_CHARS} characters: say it shorter")]
    TooLong(&'static str),
    #[error("the agent that runs does not clear it: {0}")]
    Refused(String),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    State(#[from] StateDirError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Latch(#[from] ClearError),
    #[error("cannot start a thread: {0}")]
    Runtime(std::io::Error),
}

pub fn run(arguments: &Arguments, config: &Config) -> ExitCode {
    match clear(arguments, config) {
        Ok(cleared) => {
            let words = cleared.map_or_else(
                || "not degraded: there is nothing to clear\n".to_owned(),
                |record| format!("cleared: {}\n", record.summary()),
            );
            match terminal::print(words.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => terminal::complain(&error, Exit::ExecutorFailed),
            }
        }
        Err(error) => {
            let exit = match error {
                ClearFailure::NoReason | ClearFailure::TooLong(_) => Exit::Usage,
                _ => Exit::Refused,
            };
            terminal::complain(&error, exit)
        }
    }
}

fn clear(arguments: &Arguments, config: &Config) -> Result<Option<IncidentRecord>, ClearFailure> {
    let clearance = clearance(arguments)?;
    let state_dir = &config.run.state_dir;
    match ask_to_clear(&StateDir::control_socket_in(state_dir), &clearance) {
        Ok(ClearAnswer { error: Some(error), .. }) => Err(ClearFailure::Refused(error)),
        Ok(ClearAnswer { cleared, .. }) => Ok(cleared),
        Err(ControlError::NotRunning { .. }) => clear_without_agent(&clearance, state_dir),
        Err(error) => Err(error.into()),
    }
}

fn clearance(arguments: &Arguments) -> Result<Clearance, ClearFailure> {
    let reason = arguments.reason.trim();
    if reason.is_empty() {
        return Err(ClearFailure::NoReason);
    }
    let operator = arguments.operator.clone().unwrap_or_else(whoever_runs_this);
    for (what, text) in [("reason", reason), ("operator's name", &operator)] {
        if text.chars().count() > MAX_CHARS {
            return Err(ClearFailure::TooLong(what));
        }
    }
    Ok(Clearance { reason: reason.to_owned(), operator })
}

/// The person, as far as the environment knows; the system's number of the user otherwise.
fn whoever_runs_this() -> String {
    ["SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()))
        .unwrap_or_else(|| format!("user {}", rustix::process::getuid().as_raw()))
}

/// Does what the agent would do. The lock on the state directory keeps it from starting meanwhile.
fn clear_without_agent(
    clearance: &Clearance,
    state_dir: &std::path::Path,
) -> Result<Option<IncidentRecord>, ClearFailure> {
    if IncidentRecord::load(state_dir).is_none() {
        return Ok(None);
    }
    let state_dir = StateDir::open(state_dir)?;
    let degraded = DegradedMode::open(state_dir.path());
    let Some(record) = degraded.current() else { return Ok(None) };
    let audit = AuditLog::open(&state_dir.audit())?;
    let entry = AuditEntry {
        command_id: record.command_id.clone(),
        operator_id: Some(clearance.operator.clone()),
        code: Some(record.code.clone()),
        ..AuditEntry::new(
            Timestamp::now(),
            Channel::Endpoint,
            Clearance::KIND,
            clearance.payload(&record),
        )
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().build().map_err(ClearFailure::Runtime)?;
    runtime.block_on(audit.append_durable(entry))?;
    degraded.clear(&record)?;
    Ok(Some(IncidentRecord::clone(&record)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(reason: &str, operator: Option<&str>) -> Arguments {
        Arguments { reason: reason.to_owned(), operator: operator.map(str::to_owned) }
    }

    #[test]
    fn a_reason_is_wanted_and_an_operator_who_gives_it() {
        for empty in ["", "  \t\n"] {
            let refused = clearance(&arguments(empty, None));
            assert!(matches!(refused, Err(ClearFailure::NoReason)));
        }
        let long = "x".repeat(MAX_CHARS + 1);
        assert!(matches!(clearance(&arguments(&long, None)), Err(ClearFailure::TooLong("reason"))));
        assert!(clearance(&arguments("fine", Some(&long))).is_err());
        let given = clearance(&arguments(" a disk was replaced ", Some("ann"))).unwrap();
        assert_eq!((&*given.reason, &*given.operator), ("a disk was replaced", "ann"));
        assert!(!clearance(&arguments("fine", None)).unwrap().operator.is_empty());
    }
}
