//! Full outputs, kept on this machine: the relay gets tails of what failed, and no chunks at all.
//!
//! One JSON file a command, `COMMAND_ID.json`, with mode 0600. What is too old goes, and the oldest
//! go when all together are too large.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use tracing::warn;

use super::executor::Executed;
use super::outcome::Outcome;
use crate::protocol::envelope::CommandEnvelope;
use crate::protocol::message::SandboxResetState;

/// Commands between two looks at age and size.
const SWEEP_EVERY: u32 = 64;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Most bytes of all files.
    pub bytes: u64,
    /// Greatest age.
    pub age: Duration,
}

impl Default for Retention {
    /// 256 MiB, 30 days.
    fn default() -> Self {
        Self { bytes: 256 << 20, age: Duration::from_secs(30 * 24 * 3600) }
    }
}

/// A directory of outputs.
pub struct EvidenceStore {
    dir: Arc<Path>,
    retention: Retention,
    since_sweep: AtomicU32,
}

#[derive(Serialize)]
struct Record<'a> {
    command_id: &'a str,
    tool: &'a str,
    evidence_hash: &'a str,
    exit_code: Option<i32>,
    error: Option<&'a str>,
    stdout_base64: String,
    stderr_base64: String,
    stdout_total_bytes: u64,
    stderr_total_bytes: u64,
    sandbox_reset_state: Option<&'a SandboxResetState>,
}

impl EvidenceStore {
    /// A directory that exists.
    pub fn new(dir: impl Into<PathBuf>, retention: Retention) -> Self {
        let dir: PathBuf = dir.into();
        Self { dir: dir.into(), retention, since_sweep: AtomicU32::new(SWEEP_EVERY) }
    }

    /// Writes down what a command gave. A full disk costs the evidence, not the result.
    pub(super) async fn keep(
        &self,
        envelope: &CommandEnvelope,
        executed: &Executed,
        outcome: &Outcome,
    ) {
        let error = outcome.verdict.as_ref().err();
        let (stdout, stderr, totals, exit_code) = match &executed.result {
            Ok(ran) => {
                let totals = (ran.stdout_total, ran.stderr_total);
                (&ran.stdout, &ran.stderr, totals, Some(ran.exit_code))
            }
            Err(failure) => {
                let partial = &failure.partial;
                let totals = (partial.stdout.len() as u64, partial.stderr.len() as u64);
                (&partial.stdout, &partial.stderr, totals, None)
            }
        };
        let record = Record {
            command_id: &envelope.command_id,
            tool: &envelope.tool,
            evidence_hash: &outcome.evidence_hash,
            exit_code,
            error: error.map(|problem| problem.code.as_str()),
            stdout_base64: STANDARD.encode(stdout),
            stderr_base64: STANDARD.encode(stderr),
            stdout_total_bytes: totals.0,
            stderr_total_bytes: totals.1,
            sandbox_reset_state: outcome.reset.as_ref(),
        };
        let Ok(text) = serde_json::to_vec(&record) else { return };
        // The id is a UUID: it was checked with the envelope.
        let path = self.dir.join(format!("{}.json", envelope.command_id));
        let sweeps = self.since_sweep.fetch_add(1, Ordering::Relaxed) >= SWEEP_EVERY;
        let (dir, retention) = (Arc::clone(&self.dir), self.retention);
        let written = tokio::task::spawn_blocking(move || {
            write(&path, &text)?;
            if sweeps { sweep(&dir, retention) } else { Ok(()) }
        });
        if sweeps {
            self.since_sweep.store(0, Ordering::Relaxed);
        }
        if let Ok(Err(error)) = written.await {
            warn!(command = envelope.command_id, %error, "the evidence could not be kept");
        }
    }
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)
}

fn sweep(dir: &Path, retention: Retention) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let data = entry.metadata()?;
        if data.is_file() && entry.path().extension().is_some_and(|e| e == "json") {
            files.push((data.modified()?, data.len(), entry.path()));
        }
    }
    files.sort();
    let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
    let now = SystemTime::now();
    for (modified, size, path) in files {
        let age = now.duration_since(modified).unwrap_or_default();
        if total <= retention.bytes && age <= retention.age {
            break;
        }
        fs::remove_file(path)?;
        total = total.saturating_sub(size);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn age(path: &Path, days: u64) {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(days * 24 * 3600)).unwrap();
    }

    #[test]
    fn the_old_go_first_and_only_as_many_as_have_to() {
        let dir = tempfile::tempdir().unwrap();
        for (name, days) in [("a.json", 40), ("b.json", 3), ("c.json", 2), ("d.json", 1)] {
            write(&dir.path().join(name), &[0; 100]).unwrap();
            age(&dir.path().join(name), days);
        }
        write(&dir.path().join("other"), &[0; 1000]).unwrap();
        let retention = Retention { bytes: 10_000, ..Retention::default() };
        sweep(dir.path(), retention).unwrap();
        assert_eq!(files(dir.path()), ["b.json", "c.json", "d.json", "other"]);
        sweep(dir.path(), Retention { bytes: 250, ..retention }).unwrap();
        assert_eq!(files(dir.path()), ["c.json", "d.json", "other"]);
    }

    #[test]
    fn nothing_is_written_over_and_nobody_else_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write(&path, b"1").unwrap();
        assert!(write(&path, b"2").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"1");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
