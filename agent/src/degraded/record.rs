//! The latch file: why no command runs.

use crate::reset_report::reset_report;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use protocol::code::ErrorCode;
use protocol::message::SandboxResetState;
use protocol::timestamp::Timestamp;
use sandbox::verify::{Finding, Verdict, Verification};
use sandbox::{Cause, Incident};

/// Name of the latch in the state directory.
const FILE: &str = "degraded.json";
/// Form of the file.
const VERSION: u32 = 1;
/// Longest latch file that is read, in bytes; what is longer is damaged.
pub const MAX_RECORD_BYTES: u64 = 1 << 20;
/// Most characters of a reason.
const MAX_REASON: usize = 4000;

/// Why no command runs. The content of `degraded.json`, and of a bundle's `report.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncidentRecord {
    /// Form of the record.
    pub version: u32,
    /// When it happened.
    pub since: Timestamp,
    /// The protocol's code.
    pub code: String,
    /// In words.
    pub reason: String,
    /// The command the machine ran last.
    pub command_id: Option<String>,
    /// What was not as it was.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub more_findings: usize,
    /// What was odd.
    pub suspicions: Vec<Finding>,
    /// The guest did not answer.
    pub silent: bool,
    /// What the relay was told of the machine; `None` when it could not be reset.
    pub reset_state: Option<SandboxResetState>,
    /// Where what was saved of the machine lies, from the state directory.
    pub bundle: Option<String>,
    /// Incidents since.
    pub further_incidents: u64,
    /// The agent's version.
    pub agent_version: String,
}

impl IncidentRecord {
    /// Kind of the audit entry of an incident.
    pub const KIND: &str = "IntegrityIncident";

    /// Where the latch of a state directory is.
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join(FILE)
    }

    /// What an incident leaves to be told.
    pub fn of(incident: &Incident) -> Self {
        let mut record = Self::new(timestamp(incident.at), code(&incident.cause));
        record.reason = incident.cause.reason().chars().take(MAX_REASON).collect();
        record.command_id.clone_from(&incident.command_id);
        if let Cause::Verification(verification) = &incident.cause {
            record.findings.clone_from(&verification.findings);
            record.more_findings = verification.more_findings;
            record.suspicions.clone_from(&verification.suspicions);
            record.silent = verification.silent;
            record.reset_state = Some(reset_report(verification));
        }
        record
    }

    /// The latch of a state directory; `None` when it is not degraded. A file that is no latch is
    /// taken for one: an attacker who damages it must not get the agent to serve.
    pub fn load(state_dir: &Path) -> Option<Self> {
        let path = Self::path(state_dir);
        let found = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            found => found,
        };
        let modified = found.and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let read = read(&path).and_then(|bytes| {
            serde_json::from_slice::<Self>(&bytes).map_err(|error| error.to_string())
        });
        Some(read.unwrap_or_else(|why| {
            let mut record = Self::new(timestamp(modified), ErrorCode::IntegrityMonitorTripped);
            record.reason = format!("{} is there and cannot be read: {why}", path.display());
            record
        }))
    }

    /// Counts one more incident in this record.
    pub(super) fn with_another(&self) -> Self {
        let further_incidents = self.further_incidents.saturating_add(1);
        Self { further_incidents, ..self.clone() }
    }

    /// Whether both speak of one incident.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        (&self.since, &self.command_id) == (&other.since, &other.command_id)
    }

    /// As it is written.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Plain data with string keys.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// One line: since when, and why.
    pub fn summary(&self) -> String {
        format!("degraded since {}: {}", self.since, self.reason)
    }

    fn new(since: Timestamp, code: ErrorCode) -> Self {
        Self {
            version: VERSION,
            since,
            code: code.as_str().to_owned(),
            reason: String::new(),
            command_id: None,
            findings: Vec::new(),
            more_findings: 0,
            suspicions: Vec::new(),
            silent: false,
            reset_state: None,
            bundle: None,
            further_incidents: 0,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// The protocol's code for what is wrong.
pub fn code(cause: &Cause) -> ErrorCode {
    match cause {
        Cause::Verification(verification) => of_verdict(verification),
        Cause::ResetFailed(_) => ErrorCode::ResetFailed,
        Cause::NotAsInstalled(_) => ErrorCode::IntegrityMonitorTripped,
    }
}

fn of_verdict(verification: &Verification) -> ErrorCode {
    match verification.verdict() {
        Verdict::Silent => ErrorCode::ResetVerificationTimeout,
        Verdict::Diverged | Verdict::Passed => ErrorCode::ResetVerificationDivergence,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(MAX_RECORD_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_RECORD_BYTES {
        return Err(format!("it is longer than {MAX_RECORD_BYTES} bytes"));
    }
    Ok(bytes)
}

fn timestamp(at: SystemTime) -> Timestamp {
    let millis = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
}
