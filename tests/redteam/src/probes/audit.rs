//! Evidence and audit log of a command hold what happened, to the byte, and every change is found.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::signer::failed;
use crate::scratch::Scratch;
use crate::{AttackerClass, Expectation, FnProbe, Guest, ProbeError, Testbed, Verdict};
use brainstorm_agent::store::{
    AuditEntry, AuditHead, AuditLog, Channel, Expected, rows_about, verify_audit_against,
};
use protocol::Timestamp;
use protocol::signing::sha256_text;
use sandbox::Chunks;
use sandbox::ToolCall;

/// An attacker changes evidence and audit log.
pub const PROBE: FnProbe = FnProbe {
    name: "audit-tamper",
    class: AttackerClass::A7,
    expectation: Expectation::ShouldFail,
    description: "A tool's output is kept as evidence and in the audit log byte for byte; then \
                  bytes, columns and rows are changed, moved, cut off and written anew, and each \
                  is found with the heads that were noted elsewhere",
    repeats: false,
    run,
};

/// Number of rows in the log.
const ROWS: u64 = 8;
/// Number of a row in the middle.
const ROW: u64 = 4;

fn run(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let bytes: Vec<u8> = (0..=255).chain(*b"\0\0\0\x02{}\xff\xc3\x28\r\n").collect();
    let (mut breaches, changed_chunks) = evidence(testbed, &bytes)?;
    let log = Log::new(&bytes)?;
    let (found, seen) = log.attack(testbed.plan().leaves_out("anchors"))?;
    breaches.extend(found);
    let held =
        format!("{changed_chunks} changes of evidence and {} of the audit log found", seen.len());
    let evidence = json!({"changed_evidence": changed_chunks, "changed_log": seen});
    Ok(Verdict::of(&breaches, held, evidence))
}

/// Judges that the evidence is what a tool printed and that no byte of it can be another one. Gives
/// the breaches and the number of changes tried.
fn evidence(testbed: &Testbed, bytes: &[u8]) -> Result<(Vec<String>, usize), ProbeError> {
    let sandbox = testbed.sandbox(Guest::Shipped)?;
    let params = json!({"stdout": STANDARD.encode(bytes), "stderr": ""});
    let call = ToolCall::new("attack_output", params.as_object().cloned().unwrap_or_default());
    let id = call.command_id.clone();
    let outcome = sandbox.execute_tool(call).map_err(ProbeError::at("printing bytes"))?;
    if outcome.exit_code != 0 || outcome.stdout.is_empty() {
        return Err(ProbeError::Control(format!("printing ended with {}", outcome.exit_code)));
    }
    let mut breaches = Vec::new();
    let kept = &outcome.chunks;
    if kept.streams() != Some((bytes.to_vec(), Vec::new())) || outcome.stdout != bytes {
        breaches.push("what was kept is not what was printed".to_owned());
    }
    if kept.hash(&id) != outcome.evidence_hash {
        breaches.push("the hash of the evidence is not that of its chunks".to_owned());
    }
    if kept.hash("another") == outcome.evidence_hash {
        breaches.push("the evidence could be another command's".to_owned());
    }
    let mut changed = 0;
    for at in 0..kept.len() {
        let mut data = kept.data().to_vec();
        if let Some(byte) = data.get_mut(at) {
            *byte ^= 1;
        }
        let other = Chunks::from_parts(data, kept.sizes().to_vec());
        if other.is_none_or(|other| other.hash(&id) == outcome.evidence_hash) {
            breaches.push(format!("byte {at} of the evidence can be another"));
        }
        changed += 1;
    }
    Ok((breaches, changed))
}

/// An audit log, and its head as it was noted elsewhere.
struct Log {
    scratch: Scratch,
    anchor: AuditHead,
}

/// A change of a row of the log, or of the whole log.
type LogChange = fn(&Connection) -> rusqlite::Result<()>;

const CHANGES: &[(&str, LogChange)] = &[
    ("payload", |log| set(log, "payload = x'00'")),
    ("payload and its hash", |log| {
        let hash = sha256_text(b"another");
        set(log, &format!("payload = CAST('another' AS BLOB), payload_canonical_hash = '{hash}'"))
    }),
    ("kind", |log| set(log, "kind = 'Another'")),
    ("channel of origin", |log| set(log, "channel_of_origin = 'operator'")),
    ("time", |log| set(log, "at = '2020-01-01T00:00:00.000Z'")),
    ("operator", |log| set(log, "operator_id = 'another'")),
    ("taken out", |log| all(log, &format!("DELETE FROM audit WHERE seq = {ROW}"))),
    ("two changed places", |log| {
        let next = ROW + 1;
        all(
            log,
            &format!(
                "UPDATE audit SET seq = 1000 WHERE seq = {ROW};
                 UPDATE audit SET seq = {ROW} WHERE seq = {next};
                 UPDATE audit SET seq = {next} WHERE seq = 1000;"
            ),
        )
    }),
    ("end cut off", |log| all(log, &format!("DELETE FROM audit WHERE seq > {ROW}"))),
    ("end cut off, head too", |log| {
        all(
            log,
            &format!(
                "DELETE FROM audit WHERE seq > {ROW};
                 UPDATE head SET seq = {ROW}, hash = (SELECT hash FROM audit WHERE seq = {ROW});"
            ),
        )
    }),
];

fn set(log: &Connection, change: &str) -> rusqlite::Result<()> {
    all(log, &format!("UPDATE audit SET {change} WHERE seq = {ROW}"))
}

fn all(log: &Connection, statements: &str) -> rusqlite::Result<()> {
    // These do not hold up an attacker who can write the file.
    log.execute_batch("DROP TRIGGER audit_is_never_altered; DROP TRIGGER audit_is_never_cut;")?;
    log.execute_batch(statements)
}

impl Log {
    fn new(payload: &[u8]) -> Result<Self, ProbeError> {
        let scratch = Scratch::new()?;
        let anchor = write(&file(scratch.path(), "honest"), payload)?;
        Ok(Self { scratch, anchor })
    }

    /// Changes copies of the log in every way and checks them. A check without anchors believes a log
    /// that agrees with itself.
    fn attack(&self, without_anchors: bool) -> Result<(Vec<String>, Vec<Value>), ProbeError> {
        let anchors = std::slice::from_ref(&self.anchor);
        let anchors = if without_anchors { &[] } else { anchors };
        let check = |path: &Path| verify_audit_against(path, Expected { head: None, anchors });
        let honest = file(self.scratch.path(), "honest");
        check(&honest).map_err(failed)?;
        let kept = rows_about(&honest, &command(ROW)).map_err(failed)?;
        if kept.len() != 1 {
            return Err(ProbeError::Control(format!("{} rows are about one command", kept.len())));
        }
        let (mut breaches, mut seen) = (Vec::new(), Vec::new());
        let mut examine = |name: &str, path: &Path| {
            let said = check(path).err().map(|fault| fault.to_string());
            if said.is_none() {
                breaches.push(format!("{name}: no check noticed"));
            }
            seen.push(json!({"change": name, "said": said}));
        };
        for (number, (name, change)) in CHANGES.iter().enumerate() {
            let path = file(self.scratch.path(), &format!("changed-{number}"));
            fs::copy(&honest, &path)?;
            let database = Connection::open(&path).map_err(failed)?;
            change(&database).map_err(failed)?;
            drop(database);
            examine(name, &path);
        }
        let anew = file(self.scratch.path(), "anew");
        write(&anew, b"innocent")?;
        examine("written anew", &anew);
        Ok((breaches, seen))
    }
}

fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.db"))
}

fn command(row: u64) -> String {
    format!("command {row}")
}

/// Writes a log whose payloads are these bytes, and checks that they are in it.
fn write(path: &Path, payload: &[u8]) -> Result<AuditHead, ProbeError> {
    let log = AuditLog::open(path).map_err(failed)?;
    for row in 1..=ROWS {
        let kind = if row % 2 == 0 { "CommandResult" } else { "CommandEnvelope" };
        let mut entry = AuditEntry::new(Timestamp::now(), Channel::Sandbox, kind, payload.to_vec());
        entry.command_id = Some(command(row));
        entry.operator_id = Some("redteam".to_owned());
        log.append(entry);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let head = runtime.block_on(log.flush()).map_err(failed)?;
    drop(log);
    let database = Connection::open(path).map_err(failed)?;
    // What is in the log beside this file belongs into it before it is copied.
    let same: i64 = database
        .query_row("SELECT count(*) FROM audit WHERE payload = ?1", [payload], |row| row.get(0))
        .map_err(failed)?;
    database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(failed)?;
    if head.seq != ROWS || same.cast_unsigned() != ROWS {
        return Err(ProbeError::Control(format!("{same} of {ROWS} payloads are as they were")));
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_of_a_log_is_found() {
        let (breaches, seen) = Log::new(b"\0\xff verbatim").unwrap().attack(false).unwrap();
        assert_eq!(breaches, Vec::<String>::new());
        assert_eq!(seen.len(), CHANGES.len() + 1);
    }

    #[test]
    fn without_anchors_a_log_that_agrees_with_itself_is_believed() {
        let (breaches, _) = Log::new(b"x").unwrap().attack(true).unwrap();
        assert_eq!(
            breaches,
            ["end cut off, head too: no check noticed", "written anew: no check noticed"]
        );
    }
}
