use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use rusqlite::Connection;
use tempfile::TempDir;

use super::row::{COLUMNS, HashedColumns, StoredRow};
use super::*;
use crate::store::testing::{child, child_directory, on_disk, several, single, tell_parent};
use protocol::canonical::canonical_bytes;

mod losses;

fn entry(number: i64) -> AuditEntry {
    let payload = format!("{{\"number\":{number}}}").into_bytes();
    let at = Timestamp::from_millis(1_767_355_200_000 + number);
    let mut entry = AuditEntry::new(at, Channel::Operator, "CommandEnvelope", payload);
    entry.command_id = Some(format!("command {number}"));
    entry.operator_id = Some("operator@local \"\\\u{e9}\u{1F600}\u{1}\n\u{7f}\u{2028}".to_owned());
    entry
}

struct Fixture {
    directory: TempDir,
    path: std::path::PathBuf,
    log: AuditLog,
}

fn fixture(rows: i64) -> Fixture {
    let directory = on_disk();
    let path = directory.path().join("audit.db");
    let log = AuditLog::open(&path).unwrap();
    for number in 1..=rows {
        log.append(entry(number));
    }
    if rows > 0 {
        single().block_on(log.flush()).unwrap();
    }
    Fixture { directory, path, log }
}

/// A closed log of some rows.
fn closed(rows: i64) -> (TempDir, std::path::PathBuf) {
    let Fixture { path, log, directory } = fixture(rows);
    drop(log);
    (directory, path)
}

/// Does to a log what an SQLite client could.
fn tamper(path: &Path, sql: &str) {
    let database = Connection::open(path).unwrap();
    database
        .execute_batch(&format!(
            "DROP TRIGGER audit_is_never_altered; DROP TRIGGER audit_is_never_cut; {sql}"
        ))
        .unwrap();
}

fn expect_fault(path: &Path, at: i64, wanted: RowFault) {
    assert_eq!(verify_audit(path), Err(AuditFault::Row { seq: at, what: wanted }));
    let error = AuditLog::open(path).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains(&format!("row {at}")), "{error}");
}

#[test]
fn rows_are_linked_and_verified_and_survive_a_restart() {
    let Fixture { path, log, directory: _directory } = fixture(0);
    assert_eq!(log.head(), AuditHead::none());
    assert_eq!(verify_audit(&path).unwrap().rows, 0);
    let first = single().block_on(log.append_durable(entry(1))).unwrap();
    log.append(entry(2));
    let second = single().block_on(log.flush()).unwrap();
    assert_eq!((first.seq, second.seq), (1, 2));
    assert_eq!(log.head(), second);
    assert_ne!(first.hash, second.hash);

    drop(log);
    let log = AuditLog::open(&path).unwrap();
    assert_eq!(log.head(), second);
    let third = single().block_on(log.append_durable(entry(3))).unwrap();
    let report = verify_audit(&path).unwrap();
    let wanted = AuditReport {
        rows: 3,
        first: Some("2026-01-02T12:00:00.001Z".to_owned()),
        last: Some("2026-01-02T12:00:00.003Z".to_owned()),
        head: third,
        expected_seq: None,
    };
    assert_eq!(report, wanted);
}

#[test]
fn a_row_is_hashed_as_documented() {
    let Fixture { path, log, directory: _directory } = fixture(2);
    drop(log);
    let database = Connection::open(&path).unwrap();
    let rows: Vec<StoredRow> = database
        .prepare(&format!("SELECT {COLUMNS} FROM audit ORDER BY seq"))
        .unwrap()
        .query_map([], StoredRow::read)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(rows[0].columns.previous_hash, format!("sha256:{}", "0".repeat(64)));
    assert_eq!(rows[1].columns.previous_hash, rows[0].hash);
    for row in &rows {
        assert_eq!(
            serde_json::to_vec(&row.columns).unwrap(),
            canonical_bytes(&row.columns).unwrap()
        );
    }
    // As the program in the module's documentation computes it.
    let known = "sha256:9ff943d8c071b25a2624ed2ac2e1a4bc0276cbaa63a2b6ed347c1a3669941dd6";
    assert_eq!(rows[1].hash, known);
}

/// The program in the module's documentation.
fn documented_program() -> String {
    let text = include_str!("../audit.rs");
    let (_, rest) = text.split_once("//! ```python\n").unwrap();
    let (program, _) = rest.split_once("//! ```\n").unwrap();
    program.lines().map(|line| line.strip_prefix("//! ").unwrap().to_owned() + "\n").collect()
}

#[test]
fn the_documented_program_agrees() {
    let python = |directory: &TempDir, program: &str| {
        std::process::Command::new("python3")
            .args(["-c", program])
            .current_dir(directory.path())
            .output()
    };
    let (directory, path) = closed(3);
    match python(&directory, "import sqlite3") {
        Ok(output) if output.status.success() => {}
        _ => {
            eprintln!("skipped: there is no Python with SQLite here");
            return;
        }
    }
    let head = verify_audit(&path).unwrap().head;
    let output = python(&directory, &documented_program()).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("3 {}\n", head.hash));
    tamper(&path, "UPDATE audit SET operator_id = 'other' WHERE seq = 2");
    let output = python(&directory, &documented_program()).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the row was altered"), "{said}");
}

#[test]
fn strings_are_hashed_as_they_are_not_normalised() {
    let hash = |kind: &str| {
        let entry = AuditEntry { kind: kind.to_owned(), ..entry(1) };
        HashedColumns::after(&AuditHead::none(), &entry).hash()
    };
    assert_ne!(hash("\u{e9}"), hash("e\u{301}"));
}

#[test]
fn every_column_of_every_row_is_protected() {
    for column in [
        "at",
        "channel_of_origin",
        "kind",
        "command_id",
        "tenant_id",
        "endpoint_id",
        "session_id",
        "correlation_id",
        "operator_id",
        "lifecycle_state",
        "code",
        "payload_canonical_hash",
        "previous_hash",
        "hash",
    ] {
        for row in [1, 2, 3] {
            let (_directory, path) = closed(3);
            tamper(&path, &format!("UPDATE audit SET {column} = 'other' WHERE seq = {row}"));
            let fault = verify_audit(&path).unwrap_err();
            let wanted = match column {
                "payload_canonical_hash" => RowFault::PayloadAltered,
                _ => RowFault::Altered,
            };
            assert_eq!(fault, AuditFault::Row { seq: row, what: wanted }, "{column}");
        }
    }
    let (_directory, path) = closed(3);
    tamper(&path, "UPDATE audit SET payload = x'00' WHERE seq = 2");
    expect_fault(&path, 2, RowFault::PayloadAltered);
}

#[test]
fn rows_that_are_cut_out_are_missed() {
    let (_directory, path) = closed(5);
    tamper(&path, "DELETE FROM audit WHERE seq IN (3, 4)");
    expect_fault(&path, 5, RowFault::CutOut { follows: 2 });
    let (_directory, path) = closed(5);
    tamper(&path, "DELETE FROM audit WHERE seq = 1");
    expect_fault(&path, 2, RowFault::CutOut { follows: 0 });
    let (_directory, path) = closed(5);
    tamper(&path, "DELETE FROM audit WHERE seq = 3; UPDATE audit SET seq = seq - 1 WHERE seq > 3");
    expect_fault(&path, 3, RowFault::Altered);
}

#[test]
fn rows_that_are_moved_are_noticed() {
    let (_directory, path) = closed(5);
    tamper(
        &path,
        "UPDATE audit SET seq = 100 WHERE seq = 3;
         UPDATE audit SET seq = 3 WHERE seq = 4;
         UPDATE audit SET seq = 4 WHERE seq = 100;",
    );
    expect_fault(&path, 3, RowFault::Moved { links_to: 4 });
}

#[test]
fn a_row_that_was_altered_and_hashed_anew_breaks_the_link_of_the_next() {
    let (_directory, path) = closed(3);
    let database = Connection::open(&path).unwrap();
    let mut columns = database
        .query_row(&format!("SELECT {COLUMNS} FROM audit WHERE seq = 2"), [], StoredRow::read)
        .unwrap()
        .columns;
    columns.operator_id = Some("another operator".to_owned());
    let hash = columns.hash();
    drop(database);
    tamper(
        &path,
        &format!(
            "UPDATE audit SET operator_id = 'another operator', hash = '{hash}' WHERE seq = 2"
        ),
    );
    expect_fault(&path, 3, RowFault::Unlinked);
}

#[test]
fn a_log_that_lost_its_end_is_noticed() {
    let (_directory, path) = closed(3);
    tamper(&path, "DELETE FROM audit WHERE seq = 3");
    assert_eq!(verify_audit(&path), Err(AuditFault::End { last: 2, head: 3 }));
    assert!(AuditLog::open(&path).is_err());

    let (_directory, path) = closed(3);
    tamper(&path, "DELETE FROM audit");
    assert_eq!(verify_audit(&path), Err(AuditFault::End { last: 0, head: 3 }));
    assert!(AuditLog::open(&path).is_err());
}

#[test]
fn a_log_whose_end_was_cut_off_carefully_is_noticed_by_an_expected_head() {
    let Fixture { path, log, directory: _directory } = fixture(3);
    let expected = log.head().hash;
    single().block_on(log.append_durable(entry(4))).unwrap();
    drop(log);
    let report = verify_audit_against(&path, of_head(&expected)).unwrap();
    assert_eq!((report.rows, report.expected_seq), (4, Some(3)));

    tamper(
        &path,
        "DELETE FROM audit WHERE seq > 2;
         UPDATE head SET (seq, hash) = (SELECT seq, hash FROM audit WHERE seq = 2)",
    );
    assert_eq!(verify_audit(&path).unwrap().rows, 2);
    let missing = AuditFault::HeadMissing { last: 2, expected: expected.clone() };
    assert_eq!(verify_audit_against(&path, of_head(&expected)), Err(missing));
}

fn of_head(hash: &str) -> Expected<'_> {
    Expected { head: Some(hash), ..Expected::default() }
}

#[test]
fn a_log_that_was_written_anew_contradicts_its_anchors() {
    let Fixture { path, log, directory: _directory } = fixture(3);
    let anchor = log.head();
    single().block_on(log.append_durable(entry(4))).unwrap();
    drop(log);
    let anchors = [anchor.clone()];
    let against = |anchors: &[AuditHead]| {
        verify_audit_against(&path, Expected { anchors, ..Expected::default() })
    };
    assert_eq!(against(&anchors).unwrap().rows, 4);
    let later = AuditHead { seq: 5, ..anchor.clone() };
    let missing = AuditFault::AnchorMissing { last: 4, seq: 5 };
    assert_eq!(against(&[anchor.clone(), later]), Err(missing));

    // An attacker takes a row out and makes a chain that is right in itself.
    std::fs::remove_file(&path).unwrap();
    let log = AuditLog::open(&path).unwrap();
    for number in [1, 3, 4, 5] {
        log.append(entry(number));
    }
    let found = single().block_on(log.flush()).unwrap();
    drop(log);
    assert_eq!(verify_audit(&path).unwrap().head, found);
    let fault = against(&anchors).unwrap_err();
    assert!(
        matches!(&fault, AuditFault::AnchorDiffers { seq: 3, expected, .. }
            if *expected == anchor.hash),
        "{fault}"
    );
    assert!(fault.to_string().contains("written anew"), "{fault}");
}

#[test]
fn a_replaced_last_row_is_noticed() {
    let (_directory, path) = closed(3);
    tamper(&path, "UPDATE head SET hash = 'other'");
    assert_eq!(verify_audit(&path), Err(AuditFault::OtherEnd { seq: 3 }));
    assert!(AuditLog::open(&path).is_err());
}

#[test]
fn rows_cannot_be_altered_by_accident() {
    let (_directory, path) = closed(3);
    let database = Connection::open(&path).unwrap();
    assert!(database.execute("DELETE FROM audit", []).is_err());
    assert!(database.execute("UPDATE audit SET code = 'other'", []).is_err());
}

#[test]
fn opening_looks_at_the_last_thousand_rows_and_verifying_at_all() {
    let (_directory, path) = closed(1500);
    AuditLog::open(&path).unwrap();
    tamper(&path, "UPDATE audit SET code = 'other' WHERE seq = 400");
    AuditLog::open(&path).unwrap();
    let altered = AuditFault::Row { seq: 400, what: RowFault::Altered };
    assert_eq!(verify_audit(&path), Err(altered));
    let database = Connection::open(&path).unwrap();
    database.execute("UPDATE audit SET code = 'other' WHERE seq = 501", []).unwrap();
    drop(database);
    assert!(AuditLog::open(&path).is_err());
}

#[test]
fn a_log_is_verified_while_it_grows() {
    let Fixture { path, log, directory: _directory } = fixture(10);
    let log = Arc::new(log);
    std::thread::scope(|threads| {
        let writer = Arc::clone(&log);
        threads.spawn(move || {
            for number in 11..=500 {
                single().block_on(writer.append_durable(entry(number))).unwrap();
            }
        });
        let mut rows = 0;
        while rows < 500 {
            let report = verify_audit(&path).unwrap();
            assert!(report.rows >= rows);
            rows = report.rows;
        }
    });
}

#[test]
fn verifying_changes_nothing() {
    let (directory, path) = closed(3);
    let before = std::fs::read(&path).unwrap();
    verify_audit(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

/// A page whose free space is where its rows are: they read well, and the next one replaces them.
#[test]
fn a_log_whose_next_row_would_replace_others_is_refused() {
    let (_directory, path) = closed(3);
    let database = Connection::open(&path).unwrap();
    let number = |sql| {
        let number: u32 = database.query_row(sql, [], |row| row.get(0)).unwrap();
        number as usize
    };
    let page = number("SELECT rootpage FROM sqlite_schema WHERE name = 'audit'");
    let size = number("PRAGMA page_size");
    drop(database);
    let mut bytes = std::fs::read(&path).unwrap();
    // Start of the page's content area (SQLite file format 1.6).
    let content = (page - 1) * size + 5..(page - 1) * size + 7;
    bytes[content].copy_from_slice(&u16::try_from(size).unwrap().to_be_bytes());
    std::fs::write(&path, bytes).unwrap();
    let fault = verify_audit(&path).unwrap_err();
    assert!(matches!(fault, AuditFault::Unreadable(StoreError::Corrupt { .. })), "{fault:?}");
    let error = AuditLog::open(&path).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

#[test]
fn what_is_no_log_is_named() {
    let directory = on_disk();
    let missing = directory.path().join("a log%.db");
    let fault = verify_audit(&missing).unwrap_err();
    assert!(matches!(fault, AuditFault::Unreadable(StoreError::Open { .. })), "{fault:?}");
    assert!(!missing.exists());
    std::fs::write(&missing, "{}".repeat(1000)).unwrap();
    let fault = verify_audit(&missing).unwrap_err();
    assert!(matches!(fault, AuditFault::Unreadable(StoreError::Corrupt { .. })), "{fault:?}");
    std::fs::remove_file(&missing).unwrap();
    drop(AuditLog::open(&missing).unwrap());
    assert_eq!(verify_audit(&missing).unwrap().rows, 0);
}

#[test]
fn entries_keep_their_order_and_many_share_a_flush() {
    let Fixture { path, log, directory: _directory } = fixture(0);
    several().block_on(async {
        join_all((1..=300).map(|number| {
            let written = log.append_durable(entry(number));
            log.append(entry(1000 + number));
            async { written.await.unwrap() }
        }))
        .await;
        log.flush().await.unwrap();
    });
    let report = verify_audit(&path).unwrap();
    assert_eq!((report.rows, report.head), (600, log.head()));
}

#[test]
fn two_writers_never_fork_the_log() {
    let Fixture { path, log, directory: _directory } = fixture(1);
    let other = AuditLog::open(&path).unwrap();
    single().block_on(async {
        other.append_durable(entry(2)).await.unwrap();
        log.append_durable(entry(2)).await.unwrap_err();
        log.append_durable(entry(3)).await.unwrap();
    });
    assert_eq!(verify_audit(&path).unwrap().rows, 3);
}

#[test]
fn what_was_said_to_be_logged_is_there_after_kill_9() {
    if let Some(directory) = child_directory() {
        log_until_killed(&directory);
    }
    let directory = on_disk();
    let path = directory.path().join("audit.db");
    for round in 0..10_u64 {
        let test = "what_was_said_to_be_logged_is_there_after_kill_9";
        let mut child = child(module_path!(), test, directory.path())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut last = String::new();
        let mut read = |last: &mut String| {
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            line.strip_suffix('\n').map(|line| line.clone_into(last)).is_some()
        };
        for _ in 0..=(round * 37 % 50) {
            assert!(read(&mut last), "the child ended by itself");
        }
        std::thread::sleep(Duration::from_micros(round * 7919 % 20_000));
        child.kill().unwrap();
        child.wait().unwrap();
        while read(&mut last) {}
        let report = verify_audit_against(&path, of_head(&last)).unwrap();
        assert!(report.expected_seq.is_some());
        AuditLog::open(&path).unwrap();
    }
}

fn log_until_killed(directory: &Path) -> ! {
    let log = AuditLog::open(&directory.join("audit.db")).unwrap();
    single().block_on(async {
        for number in 0.. {
            log.append(entry(number));
            let head = log.append_durable(entry(number)).await.unwrap();
            tell_parent(&head.hash);
        }
        unreachable!()
    })
}
