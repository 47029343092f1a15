//! `brainstorm-agent audit`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Exit, terminal};
use crate::config::Config;
use crate::store::{AuditFault, AuditHead, AuditReport, Expected, StateDir, verify_audit_against};
use protocol::shape::bytes_of_hex;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: AuditAction,
}

#[derive(Debug, Subcommand)]
enum AuditAction {
    /// Check every row of the audit log and how they are linked; name the first that is wrong.
    Verify(VerifyLog),
}

#[derive(Debug, Args)]
struct VerifyLog {
    /// The audit log; that of the state directory when left out. An agent may be writing to it.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// A head that was printed earlier and must still be in the log: shows whether its end was
    /// cut off or all of it was made anew.
    #[arg(long, value_name = "HASH")]
    head: Option<String>,

    /// A row and its hash as a result's `chains.audit` had them, 12:sha256:…; can be repeated. Shows
    /// whether the log was written anew.
    #[arg(long = "anchor", value_name = "SEQ:HASH", value_parser = anchor)]
    anchors: Vec<AuditHead>,

    /// Print the verdict as JSON.
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct LogVerdict<'a> {
    valid: bool,
    #[serde(flatten)]
    report: Option<&'a AuditReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

pub fn run(arguments: &Arguments, config: &Config) -> ExitCode {
    let AuditAction::Verify(arguments) = &arguments.command;
    verify(arguments, &config.run.state_dir)
}

fn verify(arguments: &VerifyLog, state_dir: &Path) -> ExitCode {
    let file = arguments.file.clone().unwrap_or_else(|| StateDir::audit_in(state_dir));
    let expected = Expected { head: arguments.head.as_deref(), anchors: &arguments.anchors };
    let result = verify_audit_against(&file, expected);
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

/// Reads `SEQ:HASH`.
fn anchor(text: &str) -> Result<AuditHead, String> {
    let wanted = || "give a row's number, a colon and its hash, such as 12:sha256:…".to_owned();
    let (seq, hash) = text.split_once(':').ok_or_else(wanted)?;
    let digits = hash.strip_prefix("sha256:").ok_or_else(wanted)?;
    bytes_of_hex::<32>(digits).ok_or_else(wanted)?;
    let seq = seq.parse().map_err(|_| wanted())?;
    Ok(AuditHead { seq, hash: hash.to_ascii_lowercase() })
}

fn verdict(result: &Result<AuditReport, AuditFault>) -> LogVerdict<'_> {
    let fault = result.as_ref().err();
    LogVerdict {
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
    use crate::store::{AuditEntry, AuditLog, Channel};
    use protocol::Timestamp;

    #[derive(Parser)]
    struct RowLine {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn run_line(line: &[&str], state_dir: &Path) -> ExitCode {
        let line = ["audit", "verify"].iter().chain(line);
        let AuditAction::Verify(arguments) =
            RowLine::try_parse_from(line).unwrap().arguments.command;
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
        let expected = Expected { head: Some(&head), anchors: &[] };
        let whole = verify_audit_against(&file, expected).unwrap();
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

        let anchor = |seq: u64, hash: &str| {
            run_line(&["--file", file_text, "--anchor", &format!("{seq}:{hash}")], elsewhere)
        };
        assert_eq!(anchor(0, &head), ExitCode::SUCCESS);
        assert_eq!(anchor(1, &head), Exit::Refused.into());
        assert_eq!(anchor(4, &head), Exit::Refused.into());
        for wrong in ["1", "x:sha256:00", "1:sha256:00", "1:00"] {
            assert!(super::anchor(wrong).is_err(), "{wrong}");
        }

        let fault = Err(AuditFault::Row { seq: 2, what: crate::store::RowFault::Altered });
        let json = serde_json::to_value(verdict(&fault)).unwrap();
        assert_eq!(json["valid"], false);
        assert_eq!(json["seq"], 2);
        assert!(json["message"].as_str().unwrap().contains("altered"));
        assert_eq!(run_line(&["--json"], elsewhere), Exit::Refused.into());
    }
}
