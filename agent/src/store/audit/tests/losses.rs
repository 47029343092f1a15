//! Entries that cannot be written.

use rusqlite::Connection;

use super::super::*;
use super::{Fixture, entry, fixture};
use crate::store::testing::single;

/// Lets the log write nothing until it is told to.
fn hold(log: &AuditLog) -> std::sync::mpsc::Sender<()> {
    let (started, has_started) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    log.writer
        .cast(move |_, _| {
            started.send(()).unwrap();
            released.recv().ok();
            Ok(())
        })
        .unwrap();
    has_started.recv().unwrap();
    release
}

/// The rows that stand for lost entries: their number, and what was lost.
fn losses(path: &Path) -> Vec<(i64, String)> {
    let database = Connection::open(path).unwrap();
    let mut statement = database
        .prepare("SELECT seq, CAST(payload AS TEXT) FROM audit WHERE kind = ?1 ORDER BY seq")
        .unwrap();
    let rows = statement.query_map([LOST], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn entries_that_find_no_room_are_counted_and_told() {
    let Fixture { path, log, directory: _directory } = fixture(1);
    let held = hold(&log);
    for number in 0..i64::try_from(QUEUE).unwrap() + 5 {
        log.append(entry(number));
    }
    drop(held);
    single().block_on(async {
        let told = log.append_durable(entry(1)).await.unwrap_err();
        assert!(matches!(told, StoreError::EntriesLost { entries: 5, .. }), "{told:?}");
        log.append_durable(entry(2)).await.unwrap();
    });
    let report = verify_audit(&path).unwrap();
    assert_eq!(report.rows, 1 + QUEUE as u64 + 1 + 1);
    let lost = losses(&path);
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].1, "{\"lost\":5}");
}

#[test]
fn entries_that_take_too_much_memory_are_counted_and_told() {
    let Fixture { path, log, directory: _directory } = fixture(0);
    let held = hold(&log);
    for _ in 0..10 {
        let payload = vec![b'x'; MAX_PAYLOAD];
        log.append(AuditEntry { payload, ..entry(1) });
    }
    drop(held);
    let told = single().block_on(log.flush()).unwrap_err();
    assert!(matches!(told, StoreError::EntriesLost { entries: 3, .. }), "{told:?}");
    single().block_on(log.flush()).unwrap();
    assert_eq!(verify_audit(&path).unwrap().rows, 8);
    assert_eq!(losses(&path), [(1, "{\"lost\":3}".to_owned())]);
    assert_eq!(log.shared.waiting.load(Ordering::SeqCst), 0);
}

#[test]
fn an_entry_that_is_too_long_is_refused_or_counted() {
    let Fixture { path, log, directory: _directory } = fixture(0);
    let long = AuditEntry { payload: vec![0; MAX_PAYLOAD + 1], ..entry(1) };
    single().block_on(async {
        let refused = log.append_durable(long.clone()).await.unwrap_err();
        assert!(matches!(refused, StoreError::Refused { .. }), "{refused:?}");
        log.append_durable(entry(1)).await.unwrap();
        log.append(long);
        log.flush().await.unwrap_err();
    });
    assert_eq!(losses(&path), [(2, "{\"lost\":1}".to_owned())]);
}

#[test]
fn what_a_full_disk_swallows_is_counted_and_told() {
    let Fixture { path, log, directory: _directory } = fixture(3);
    single().block_on(async {
        let limit = |pages: i64| {
            log.writer.call(move |_, database| {
                database
                    .pragma_update_and_check(None, "max_page_count", pages, |row| row.get(0))
                    .map(|_: i64| ())
            })
        };
        limit(1).await.unwrap();
        let long = AuditEntry { payload: vec![b'x'; 100_000], ..entry(4) };
        let full = log.append_durable(long.clone()).await.unwrap_err();
        assert!(matches!(full, StoreError::Full { .. }), "{full:?}");
        log.append(long.clone());
        log.append(long.clone());
        let told = log.flush().await.unwrap_err();
        let expected = StoreError::EntriesLost { path: log.path().to_path_buf(), entries: 2 };
        // The flush may have been undone together with the entries.
        assert!(told == expected || matches!(told, StoreError::Full { .. }), "{told:?}");
        limit(1_000_000).await.unwrap();
        while log.append_durable(long.clone()).await.is_err() {}
    });
    let report = verify_audit(&path).unwrap();
    assert_eq!(report.rows, 5);
    assert_eq!(losses(&path), [(4, "{\"lost\":2}".to_owned())]);
}

#[test]
fn losses_are_recorded_when_the_log_closes() {
    let Fixture { path, log, directory: _directory } = fixture(0);
    log.append(AuditEntry { payload: vec![0; MAX_PAYLOAD + 1], ..entry(1) });
    drop(log);
    assert_eq!(losses(&path), [(1, "{\"lost\":1}".to_owned())]);
    verify_audit(&path).unwrap();
}
