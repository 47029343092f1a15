//! `brainstorm-agent evidence`

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};
use ed25519_dalek::VerifyingKey;
use serde::Serialize;
use serde_json::Value;

use super::{Exit, terminal};
use crate::config::Config;
use crate::evidence::archive::{list, record_path};
use crate::evidence::check::verify;
use crate::evidence::{Bundle, BundleReport, EvidenceRecord, ExportError, Trust};
use crate::keyholder::KeyHolder;
use crate::store::StateDir;
use protocol::Timestamp;
use protocol::shape::bytes_of_hex;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: EvidenceAction,
}

#[derive(Debug, Subcommand)]
enum EvidenceAction {
    /// List the commands there is evidence of.
    List {
        /// Print the list as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Put everything known of a command into one signed file.
    Export {
        /// The command.
        command_id: String,
        /// Write to this new file instead of standard output.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Check such a file, on any machine, and name the first thing that is wrong. Exit code 1 when
    /// something is, 2 when the file cannot be read.
    Verify {
        /// The file.
        file: PathBuf,
        /// The endpoint's public key, 64 hex digits: without it the file's owner is unknown.
        #[arg(long, value_name = "HEX", value_parser = key)]
        key: Option<Box<VerifyingKey>>,
        /// The key the tenant signs commands with, 64 hex digits: checks the envelope's signature.
        #[arg(long, value_name = "HEX", value_parser = key)]
        tenant_key: Option<Box<VerifyingKey>>,
        /// Print the verdict as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub fn run(arguments: &Arguments, config: &Config) -> ExitCode {
    let state_dir = &config.run.state_dir;
    match &arguments.command {
        EvidenceAction::List { json } => list_all(state_dir, *json),
        EvidenceAction::Export { command_id, output } => {
            export(state_dir, command_id, output.as_deref())
        }
        EvidenceAction::Verify { file, key, tenant_key, json } => {
            let trust = Trust { endpoint: key.as_deref(), tenant: tenant_key.as_deref() };
            check(file, trust, *json)
        }
    }
}

fn key(text: &str) -> Result<Box<VerifyingKey>, String> {
    bytes_of_hex(text)
        .and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok())
        .map(Box::new)
        .ok_or_else(|| "give an Ed25519 public key, 64 hex digits".to_owned())
}

/// One command in the list.
#[derive(Serialize)]
struct RecordLine {
    command_id: String,
    bytes: u64,
    kept_at: Option<Timestamp>,
    tool: Option<String>,
    lifecycle_state: Option<String>,
    evidence_hash: Option<String>,
}

fn list_all(state_dir: &Path, json: bool) -> ExitCode {
    let dir = StateDir::evidence_in(state_dir);
    let found = match list(&dir) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            let message = format!("cannot read {}: {error}", dir.display());
            return terminal::complain(&message, Exit::ExecutorFailed);
        }
    };
    let lines: Vec<RecordLine> =
        found.into_iter().map(|(command_id, bytes)| line(&dir, command_id, bytes)).collect();
    terminal::show(&lines, json, || table(&lines, terminal::width()))
}

fn line(dir: &Path, command_id: String, bytes: u64) -> RecordLine {
    let text = record_path(dir, &command_id).and_then(|path| fs::read(path).ok());
    let record = text.and_then(|text| serde_json::from_slice::<EvidenceRecord>(&text).ok());
    let field = |value: &Value, name: &str| value.get(name)?.as_str().map(str::to_owned);
    let of = |record: &EvidenceRecord| {
        (
            Some(record.kept_at),
            field(&record.envelope, "tool"),
            field(&record.result, "lifecycle_state"),
            field(&record.result, "evidence_hash"),
        )
    };
    let (kept_at, tool, lifecycle_state, evidence_hash) =
        record.as_ref().map(of).unwrap_or_default();
    RecordLine { command_id, bytes, kept_at, tool, lifecycle_state, evidence_hash }
}

fn table(lines: &[RecordLine], width: u16) -> String {
    if lines.is_empty() {
        return "There is no evidence of any command.\n".to_owned();
    }
    let mut table = Table::new();
    table
        .load_preset(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width)
        .force_no_tty()
        .set_header(["Command", "Tool", "Ended", "At", "Bytes"]);
    for line in lines {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "damaged".to_owned());
        let at = line.kept_at.map_or_else(String::new, |at| at.to_string());
        table.add_row([
            line.command_id.clone(),
            text(&line.tool),
            text(&line.lifecycle_state),
            at,
            line.bytes.to_string(),
        ]);
    }
    format!("{table}\n")
}

fn export(state_dir: &Path, command_id: &str, output: Option<&Path>) -> ExitCode {
    let bytes = match bundle(state_dir, command_id) {
        Ok(bytes) => bytes,
        Err(error) => {
            let refused = matches!(error, ExportError::Unknown(_) | ExportError::Wrong(_));
            let exit = if refused { Exit::Refused } else { Exit::ExecutorFailed };
            return terminal::complain(&error, exit);
        }
    };
    let written = match output {
        Some(path) => write_new(path, &bytes)
            .map_err(|error| format!("cannot write {}: {error}", path.display())),
        None => terminal::print(&bytes).map_err(|error| error.to_string()),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => terminal::complain(&message, Exit::ExecutorFailed),
    }
}

fn bundle(state_dir: &Path, command_id: &str) -> Result<Vec<u8>, ExportError> {
    let holder = KeyHolder::spawn(&StateDir::identity_in(state_dir), None)?;
    Bundle::gather(state_dir, command_id, holder.public(), Timestamp::now())?.sign(&holder)
}

/// Only the owner may read outputs of tools.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// What is printed as JSON.
#[derive(Serialize)]
struct BundleVerdict<'a> {
    valid: bool,
    #[serde(flatten)]
    report: Option<&'a BundleReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

fn check(file: &Path, trust: Trust<'_>, json: bool) -> ExitCode {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) => {
            let message = format!("cannot read {}: {error}", file.display());
            return terminal::complain(&message, Exit::Usage);
        }
    };
    let result = verify(&bytes, trust);
    let printed = match &result {
        _ if json => terminal::print_json(&BundleVerdict {
            valid: result.is_ok(),
            report: result.as_ref().ok(),
            message: result.as_ref().err().map(ToString::to_string),
        }),
        Ok(report) => terminal::print(in_words(report).as_bytes()),
        Err(fault) => return terminal::complain(fault, Exit::Refused),
    };
    match (printed, result) {
        (Err(error), _) => terminal::complain(&error, Exit::ExecutorFailed),
        (Ok(()), Err(_)) => Exit::Refused.into(),
        (Ok(()), Ok(_)) => ExitCode::SUCCESS,
    }
}

fn in_words(report: &BundleReport) -> String {
    let checked = |done: bool, option: &str| {
        if done { "checked".to_owned() } else { format!("not checked, give {option}") }
    };
    let state = if report.lifecycle_state == protocol::message::Lifecycle::Completed {
        "completed"
    } else {
        "failed"
    };
    let reset = match report.verification_passed {
        Some(true) => "verified",
        Some(false) => "NOT as it was",
        None => "not verified",
    };
    let anchor = report
        .audit_anchor
        .as_ref()
        .map_or_else(|| "none".to_owned(), |anchor| format!("{}:{}", anchor.seq, anchor.hash));
    format!(
        "undamaged: command {} ({}), {state}\n\
         machine after it: {reset}\n\
         evidence: {} chunks, {}\n\
         audit: {} rows; the result anchors {anchor}\n\
         exported: {}\n\
         signed by: {}, {}\n\
         envelope's signature: {}\n",
        report.command_id,
        report.tool,
        report.chunks,
        report.evidence_hash,
        report.audit_rows,
        report.exported_at,
        report.signed_by,
        checked(report.endpoint_key_checked, "--key to see whose key that is"),
        checked(report.envelope_signature_checked, "--tenant-key"),
    )
}
