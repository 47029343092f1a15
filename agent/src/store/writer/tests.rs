use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc as gate;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::store::database::{self, DamageCheck, Kind};
use crate::store::testing::{on_disk, several, single};

const KIND: Kind = Kind {
    name: "test store",
    application_id: 7,
    version: 1,
    schema: "CREATE TABLE number (number INTEGER PRIMARY KEY, filling BLOB) STRICT;",
    shared: true,
    check: DamageCheck::Whole,
};

/// Knows the sum of the numbers without asking the database.
#[derive(Clone, Default)]
struct Total {
    sum: i64,
    shown: Arc<AtomicI64>,
    lost: Arc<AtomicU64>,
}

impl Ledger for Total {
    fn load(&mut self, database: &Connection) -> rusqlite::Result<()> {
        self.sum =
            database
                .query_row("SELECT coalesce(sum(number), 0) FROM number", [], |row| row.get(0))?;
        Ok(())
    }

    fn publish(&mut self) {
        self.shown.store(self.sum, Ordering::SeqCst);
    }

    fn lost(&self, jobs: u64, _error: &StoreError) {
        self.lost.fetch_add(jobs, Ordering::SeqCst);
    }
}

impl Total {
    fn add(&mut self, database: &Connection, number: i64) -> rusqlite::Result<i64> {
        self.sum += number;
        database.execute("INSERT INTO number VALUES (?1, NULL)", [number])?;
        Ok(self.sum)
    }
}

struct Fixture {
    directory: tempfile::TempDir,
    writer: Writer<Total>,
    shown: Arc<AtomicI64>,
    lost: Arc<AtomicU64>,
}

fn fixture() -> Fixture {
    let directory = on_disk();
    let (database, path) = database::open(&directory.path().join("sum.db"), &KIND).unwrap();
    let ledger = Total::default();
    let (shown, lost) = (Arc::clone(&ledger.shown), Arc::clone(&ledger.lost));
    let writer = Writer::start("sum", path, database, ledger, 64).unwrap();
    Fixture { directory, writer, shown, lost }
}

impl Fixture {
    /// What another connection sees.
    fn stored(&self) -> Vec<i64> {
        let database = Connection::open(self.directory.path().join("sum.db")).unwrap();
        let mut statement = database.prepare("SELECT number FROM number ORDER BY 1").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    /// Keeps the thread busy until the sender is used or dropped.
    fn hold(&self) -> gate::Sender<()> {
        let (started, has_started) = gate::channel();
        let (release, released) = gate::channel::<()>();
        self.writer
            .cast(move |_, _| {
                started.send(()).unwrap();
                released.recv().ok();
                Ok(())
            })
            .unwrap();
        has_started.recv().unwrap();
        release
    }
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn every_commit_is_flushed() {
    let fixture = fixture();
    single().block_on(async {
        let (mode, synchronous): (String, i64) = fixture
            .writer
            .call(|_, database| {
                Ok((
                    database.pragma_query_value(None, "journal_mode", |row| row.get(0))?,
                    database.pragma_query_value(None, "synchronous", |row| row.get(0))?,
                ))
            })
            .await
            .unwrap();
        assert_eq!((mode.as_str(), synchronous), ("wal", 2));
    });
}

#[test]
fn no_caller_is_answered_before_the_transaction_is_stored() {
    let fixture = fixture();
    let hold = fixture.hold();
    let mut first = pin!(fixture.writer.call(|sum, database| sum.add(database, 1)));
    assert!(poll_once(first.as_mut()).is_pending());

    let (started, has_started) = gate::channel();
    let (release, released) = gate::channel::<()>();
    fixture
        .writer
        .cast(move |_, _| {
            started.send(()).unwrap();
            released.recv().ok();
            Ok(())
        })
        .unwrap();
    hold.send(()).unwrap();
    has_started.recv().unwrap();
    // The first job has been done, in the transaction that the second one keeps open.
    assert!(poll_once(first.as_mut()).is_pending());
    assert_eq!(fixture.stored(), Vec::<i64>::new());
    assert_eq!(fixture.shown.load(Ordering::SeqCst), 0);
    release.send(()).unwrap();
    assert_eq!(single().block_on(first), Ok(1));
    assert_eq!(fixture.stored(), [1]);
    assert_eq!(fixture.shown.load(Ordering::SeqCst), 1);
}

#[test]
fn a_job_that_fails_is_undone_and_the_others_of_its_transaction_stay() {
    let fixture = fixture();
    single().block_on(async {
        fixture.writer.call(|sum, database| sum.add(database, 1)).await.unwrap();
        let hold = fixture.hold();
        let mut good = pin!(fixture.writer.call(|sum, database| sum.add(database, 10)));
        let mut bad = pin!(fixture.writer.call(|sum, database| sum.add(database, 1)));
        assert!(poll_once(good.as_mut()).is_pending());
        assert!(poll_once(bad.as_mut()).is_pending());
        fixture.writer.cast(|sum, database| sum.add(database, 20).map(|_| ())).unwrap();
        fixture.writer.cast(|sum, database| sum.add(database, 20).map(|_| ())).unwrap();
        drop(hold);
        assert_eq!(good.await, Ok(11));
        let bad = bad.await;
        assert!(matches!(bad, Err(StoreError::Database { .. })), "{bad:?}");
        // What the ledger remembered of the undone jobs is gone too.
        let sum = fixture.writer.call(|sum, database| sum.add(database, 100)).await;
        assert_eq!(sum, Ok(131));
        assert_eq!(fixture.stored(), [1, 10, 20, 100]);
        assert_eq!(fixture.lost.load(Ordering::SeqCst), 1, "the second of the told ones");
    });
}

#[test]
fn a_transaction_that_fails_is_undone_with_all_of_its_jobs() {
    let fixture = fixture();
    single().block_on(async {
        fixture.writer.call(|sum, database| sum.add(database, 1)).await.unwrap();
        let hold = fixture.hold();
        let mut good = pin!(fixture.writer.call(|sum, database| sum.add(database, 10)));
        let mut bad = pin!(fixture.writer.call(|_, database| -> rusqlite::Result<i64> {
            // As SQLite does by itself after some errors.
            database.execute_batch("ROLLBACK")?;
            Err(rusqlite::Error::InvalidQuery)
        }));
        assert!(poll_once(good.as_mut()).is_pending() && poll_once(bad.as_mut()).is_pending());
        drop(hold);
        for outcome in [good.await, bad.await] {
            assert!(matches!(outcome, Err(StoreError::Database { .. })), "{outcome:?}");
        }
        assert_eq!(fixture.stored(), [1]);
        let sum = fixture.writer.call(|sum, database| sum.add(database, 100)).await;
        assert_eq!(sum, Ok(101));
    });
}

#[test]
fn a_full_disk_refuses_and_is_forgotten_when_there_is_room() {
    let fixture = fixture();
    single().block_on(async {
        let limit = |pages: i64| {
            fixture.writer.call(move |_, database| {
                database
                    .pragma_update_and_check(None, "max_page_count", pages, |row| row.get(0))
                    .map(|_: i64| ())
            })
        };
        let fill = || {
            fixture.writer.call(|_, database| {
                database.execute("INSERT INTO number VALUES (NULL, zeroblob(100000))", [])
            })
        };
        limit(1).await.unwrap();
        for _ in 0..3 {
            assert!(matches!(fill().await, Err(StoreError::Full { .. })));
        }
        assert_eq!(fixture.stored().len(), 0);
        limit(1_000_000).await.unwrap();
        fill().await.unwrap();
        assert_eq!(fixture.stored().len(), 1);
    });
}

#[test]
fn a_disk_that_turns_read_only_refuses_and_is_forgotten_when_it_turns_back() {
    let fixture = fixture();
    single().block_on(async {
        let refused = fixture
            .writer
            .call(|sum, database| {
                database.pragma_update(None, "query_only", true)?;
                let refused = sum.add(database, 1);
                database.pragma_update(None, "query_only", false)?;
                refused
            })
            .await;
        assert!(matches!(refused, Err(StoreError::ReadOnly { .. })), "{refused:?}");
        assert_eq!(fixture.writer.call(|sum, database| sum.add(database, 1)).await, Ok(1));
    });
}

#[test]
fn what_is_queued_is_done_before_the_store_closes() {
    let fixture = fixture();
    for number in 1..=40 {
        fixture.writer.cast(move |sum, database| sum.add(database, number).map(|_| ())).unwrap();
    }
    let Fixture { directory, writer, .. } = fixture;
    drop(writer);
    let database = Connection::open(directory.path().join("sum.db")).unwrap();
    let count: i64 =
        database.query_row("SELECT count(*) FROM number", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 40);
}

#[test]
fn a_full_queue_refuses_what_does_not_wait() {
    let fixture = fixture();
    let _hold = fixture.hold();
    let outcomes: Vec<_> = (0..65).map(|_| fixture.writer.cast(|_, _| Ok(()))).collect();
    assert!(outcomes[..64].iter().all(Result::is_ok));
    assert!(matches!(outcomes[64], Err(StoreError::Overloaded { .. })));
}

#[test]
fn a_store_whose_thread_failed_is_closed() {
    let fixture = fixture();
    single().block_on(async {
        let failed =
            fixture.writer.call(|_, _| -> rusqlite::Result<()> { panic!("as told") }).await;
        assert!(matches!(failed, Err(StoreError::Closed { .. })), "{failed:?}");
        let after = fixture.writer.call(|sum, database| sum.add(database, 1)).await;
        assert!(matches!(after, Err(StoreError::Closed { .. })), "{after:?}");
    });
}

#[test]
fn many_callers_share_transactions_and_all_get_their_own_answer() {
    let fixture = fixture();
    let writer = Arc::new(fixture.writer);
    several().block_on(async {
        let callers: Vec<_> = (1..=500_i64)
            .map(|number| {
                let writer = Arc::clone(&writer);
                tokio::spawn(async move {
                    writer
                        .call(move |sum, database| sum.add(database, number).map(|_| number))
                        .await
                        .unwrap()
                        == number
                })
            })
            .collect();
        for caller in callers {
            assert!(caller.await.unwrap());
        }
    });
    assert_eq!(fixture.shown.load(Ordering::SeqCst), 500 * 501 / 2);
}

#[test]
fn the_log_does_not_grow_for_ever() {
    let fixture = fixture();
    single().block_on(async {
        for _ in 0..60 {
            fixture
                .writer
                .call(|_, database| {
                    database.execute("INSERT INTO number VALUES (NULL, zeroblob(1000000))", [])
                })
                .await
                .unwrap();
        }
    });
    let log = std::fs::metadata(fixture.directory.path().join("sum.db-wal")).unwrap().len();
    assert!(log < 30_000_000, "{log} bytes after writing 60000000");
}
