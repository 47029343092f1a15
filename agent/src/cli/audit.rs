//! `brainstorm-agent audit`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Exit, terminal};
use crate::config::Config;
use crate::store::{AuditFault, AuditReport, StateDir, verify_audit_against};

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check every row of the audit log and how they are linked; name the first that is wrong.
    Verify(Verify),
}

#[derive(Debug, Args)]
struct Verify {
    /// The audit log; that of the state directory when left out. An agent may be writing to it.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// A head that was printed earlier and must still be in the log: shows whether its end was
    /// cut off or all of it was made anew.
    #[arg(long, value_name = "HASH")]
    head: Option<String>,

    /// Print the verdict as JSON.
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Verdict<'a> {
    valid: bool,
    #[serde(flatten)]
    report: Option<&'a AuditReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

pub fn run(arguments: &Arguments, config: &Config) -> ExitCode {
    let Command::Verify(arguments) = &arguments.command;
    verify(arguments, &config.run.state_dir)
}

fn verify(arguments: &Verify, state_dir: &Path) -> ExitCode {
    let file = arguments.file.clone().unwrap_or_else(|| StateDir::audit_in(state_dir));
    let result = verify_audit_against(&file, arguments.head.as_deref());
    let printed = match (&result, arguments.json) {
        (result, true) => terminal::print_json(&verdict(result)),
        (Ok(report), false) => terminal::print(in_words(report).as_bytes()),
        (Err(fault), false) => return terminal::complain(fault, Exit::Refused),
    };
    match (printed, result) {
        (Err(error), _) => terminal::complain(&error, Exit::Refused),
        (Ok(()), Err(_)) => Exit::Refused.into(),
        (Ok(()), Ok(_)) => ExitCode::SUCCESS,
    }
}

fn verdict(result: &Result<AuditReport, AuditFault>) -> Verdict<'_> {
    let fault = result.as_ref().err();
    Verdict {
        valid: result.is_ok(),
        report: result.as_ref().ok(),
        seq: fault.and_then(AuditFault::seq),
        message: fault.map(ToString::to_string),
    }
}

fn in_words(report: &AuditReport) -> String {
    let span = match (&report.first, &report.last) {
        (Some(first), Some(last)) => format!(", {first} to {last}"),
        _ => String::new(),
    };
    let since = report.expected_seq.map_or_else(String::new, |seq| {
        format!("expected head: row {seq}, {} rows since\n", report.rows.saturating_sub(seq))
    });
    format!("undamaged: {} rows{span}\n{since}head: {}\n", report.rows, report.head.hash)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::protocol::Timestamp;
    use crate::store::{AuditEntry, AuditLog, Channel};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn run_line(line: &[&str], state_dir: &Path) -> ExitCode {
        let line = ["audit", "verify"].iter().chain(line);
        let Command::Verify(arguments) = Line::try_parse_from(line).unwrap().arguments.command;
        verify(&arguments, state_dir)
    }

    #[test]
    fn the_exit_code_and_the_words_tell_whole_from_broken() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("audit.db");
        let log = AuditLog::open(&file).unwrap();
        for millis in 0..3 {
            let at = Timestamp::from_millis(millis);
            log.append(AuditEntry::new(at, Channel::Endpoint, "test", Vec::new()));
        }
        let head = log.head().hash;
        drop(log);
        let file_text = file.to_str().unwrap();
        let elsewhere = Path::new("/nonexistent");
        let whole = verify_audit_against(&file, Some(&head)).unwrap();
        let words = in_words(&whole);
        for wanted in ["undamaged: 3 rows, 1970-01-01T00:00:00.000Z to", "3 rows since", "sha256:"]
        {
            assert!(words.contains(wanted), "{words}");
        }
        let json = serde_json::to_value(verdict(&Ok(whole))).unwrap();
        assert_eq!(json["valid"], true);
        assert_eq!(json["rows"], 3);
        assert_eq!(run_line(&["--file", file_text], elsewhere), ExitCode::SUCCESS);
        assert_eq!(run_line(&["--json"], directory.path()), ExitCode::SUCCESS);
        assert_eq!(
            run_line(&["--file", file_text, "--head", "x"], elsewhere),
            Exit::Refused.into()
        );

        let fault = Err(AuditFault::Row { seq: 2, what: crate::store::RowFault::Altered });
        let json = serde_json::to_value(verdict(&fault)).unwrap();
        assert_eq!(json["valid"], false);
        assert_eq!(json["seq"], 2);
        assert!(json["message"].as_str().unwrap().contains("altered"));
        assert_eq!(run_line(&["--json"], elsewhere), Exit::Refused.into());
    }
}
