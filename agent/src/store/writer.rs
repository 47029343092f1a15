//! Group commit: one thread, one connection, one transaction for everything that waits.
//!
//! An answer is given after COMMIT has returned, which with a write-ahead log and
//! `synchronous=FULL` is after the log has been flushed to disk. A job that fails is undone and
//! answered with its error; the others stay. When the transaction itself fails, all of it is rolled
//! back and every job in it is answered with the error.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use crate::confine::{ThreadKind, enter};

/// Most jobs of one transaction. Bounds how long the first of them waits for the last.
const MAX_JOBS: usize = 512;

/// Pages in the write-ahead log from which on it is checkpointed when no job waits.
const CHECKPOINT_IDLE_PAGES: i64 = 1_000;

/// Pages in the write-ahead log from which on it is checkpointed although jobs wait (16 MiB).
const CHECKPOINT_FORCE_PAGES: i64 = 4_000;

/// What a store keeps in memory beside its database, on the writer's thread.
pub(super) trait Ledger: Clone + Send + 'static {
    /// Reads it from the database: at the start, and after a transaction that failed. Runs
    /// inside a transaction.
    fn load(&mut self, database: &Connection) -> rusqlite::Result<()>;

    /// Writes what is due once for a whole transaction.
    fn complete(&mut self, _database: &Connection) -> rusqlite::Result<()> {
        Ok(())
    }

    /// The transaction is on disk: shows others what they may know.
    fn publish(&mut self);

    /// Told that this many posts were undone, alone or with a failed transaction.
    fn lost(&self, jobs: u64, error: &StoreError);
}

/// Work for a transaction, and the way to report its outcome.
trait Job<L>: Send {
    /// Does it. An error undoes it; a refusal is no error.
    fn run(&mut self, ledger: &mut L, database: &Connection) -> rusqlite::Result<()>;

    /// Whether a caller waits for the outcome.
    fn awaited(&self) -> bool;

    /// Tells what came of it.
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct WriteRequest<F, T> {
    work: Option<F>,
    done: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<L, F, T> Job<L> for WriteRequest<F, T>
where
    F: FnOnce(&mut L, &Connection) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn run(&mut self, ledger: &mut L, database: &Connection) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.done = Some(work(ledger, database)?);
        }
        Ok(())
    }

    fn awaited(&self) -> bool {
        !self.reply.is_closed()
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let answer = match (outcome, self.done) {
            (Ok(()), Some(done)) => Ok(done),
            (Err(error), _) => Err(error),
            // Not reached. Dropping the sender tells the caller.
            (Ok(()), None) => return,
        };
        // The caller may have stopped waiting.
        let _ = self.reply.send(answer);
    }
}

struct Post<F>(Option<F>);

impl<L, F> Job<L> for Post<F>
where
    F: FnOnce(&mut L, &Connection) -> rusqlite::Result<()> + Send,
{
    fn run(&mut self, ledger: &mut L, database: &Connection) -> rusqlite::Result<()> {
        self.0.take().map_or(Ok(()), |work| work(ledger, database))
    }

    fn awaited(&self) -> bool {
        false
    }

    fn answer(self: Box<Self>, _outcome: Result<(), StoreError>) {}
}

/// Hands jobs to the thread. Dropping it lets the thread do what is queued and waits for that.
pub(super) struct Writer<L: Ledger> {
    path: Arc<Path>,
    orders: Option<mpsc::Sender<Box<dyn Job<L>>>>,
    thread: Option<JoinHandle<()>>,
}

impl<L: Ledger> Writer<L> {
    /// Starts the thread. `queue` is how many jobs may wait.
    pub fn start(
        name: &str,
        path: PathBuf,
        database: Connection,
        ledger: L,
        queue: usize,
    ) -> Result<Self, StoreError> {
        let path: Arc<Path> = path.into();
        let (orders, waiting) = mpsc::channel(queue);
        let mut writer_thread = WriterThread {
            path: Arc::clone(&path),
            database,
            ledger,
            waiting,
            stale: true,
            checkpoint_failed: false,
        };
        writer_thread.transaction(&mut []).map_err(|error| StoreError::of_sqlite(&path, &error))?;
        writer_thread.ledger.publish();
        let thread = thread::Builder::new()
            .name(format!("store-{name}"))
            .spawn(move || {
                enter(ThreadKind::Store);
                writer_thread.work();
            })
            .map_err(|error| StoreError::of_io(&path, &error))?;
        Ok(Self { path, orders: Some(orders), thread: Some(thread) })
    }

    /// Real path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` in a transaction and waits. What it changed is on disk when this returns `Ok`.
    pub async fn call<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut L, &Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let orders = self.orders.as_ref().ok_or_else(|| self.closed())?;
        let job = Box::new(WriteRequest { work: Some(work), done: None, reply });
        orders.send(job).await.map_err(|_| self.closed())?;
        answer.await.map_err(|_| self.closed())?
    }

    /// Queues `work` and does not wait for it.
    pub fn cast<F>(&self, work: F) -> Result<(), StoreError>
    where
        F: FnOnce(&mut L, &Connection) -> rusqlite::Result<()> + Send + 'static,
    {
        let orders = self.orders.as_ref().ok_or_else(|| self.closed())?;
        orders.try_send(Box::new(Post(Some(work)))).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Overloaded { path: self.path.to_path_buf() },
            TrySendError::Closed(_) => self.closed(),
        })
    }

    fn closed(&self) -> StoreError {
        StoreError::Closed { path: self.path.to_path_buf() }
    }
}

impl<L: Ledger> Drop for Writer<L> {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(store = %self.path.display(), "the thread of a store has failed");
        }
    }
}

/// What the thread owns.
struct WriterThread<L: Ledger> {
    path: Arc<Path>,
    database: Connection,
    ledger: L,
    waiting: mpsc::Receiver<Box<dyn Job<L>>>,
    /// What the ledger keeps in memory may not be what the database says.
    stale: bool,
    /// The last checkpoint failed.
    checkpoint_failed: bool,
}

impl<L: Ledger> WriterThread<L> {
    fn work(mut self) {
        let mut jobs = Vec::with_capacity(MAX_JOBS);
        while let Some(first) = self.waiting.blocking_recv() {
            jobs.push(first);
            while jobs.len() < MAX_JOBS
                && let Ok(next) = self.waiting.try_recv()
            {
                jobs.push(next);
            }
            self.batch(&mut jobs);
            self.checkpoint();
        }
    }

    fn batch(&mut self, jobs: &mut Vec<Box<dyn Job<L>>>) {
        match self.transaction(jobs) {
            Ok(failures) => {
                self.ledger.publish();
                for (job, failure) in jobs.drain(..).zip(failures) {
                    if let Some(error) = &failure {
                        tracing::error!(%error, "a job of a store failed and is undone");
                        if !job.awaited() {
                            self.ledger.lost(1, error);
                        }
                    }
                    job.answer(failure.map_or(Ok(()), Err));
                }
            }
            Err(error) => {
                self.stale = true;
                let error = StoreError::of_sqlite(&self.path, &error);
                tracing::error!(jobs = jobs.len(), %error, "a transaction failed and is undone");
                let lost = jobs.iter().filter(|job| !job.awaited()).count() as u64;
                if lost > 0 {
                    self.ledger.lost(lost, &error);
                }
                for job in jobs.drain(..) {
                    job.answer(Err(error.clone()));
                }
            }
        }
    }

    /// Does the jobs in one transaction. Gives the error of each that failed by itself.
    fn transaction(
        &mut self,
        jobs: &mut [Box<dyn Job<L>>],
    ) -> rusqlite::Result<Vec<Option<StoreError>>> {
        // Rolls back when it is dropped.
        let transaction =
            Transaction::new_unchecked(&self.database, TransactionBehavior::Immediate)?;
        if self.stale {
            self.ledger.load(&transaction)?;
        }
        let mut failures = Vec::with_capacity(jobs.len());
        for job in jobs {
            let before = self.ledger.clone();
            transaction.prepare_cached("SAVEPOINT job")?.execute([])?;
            let failure = match job.run(&mut self.ledger, &transaction) {
                Ok(()) => None,
                // SQLite ends the transaction by itself after some errors of the disk.
                Err(error) if transaction.is_autocommit() => return Err(error),
                Err(error) => {
                    transaction.prepare_cached("ROLLBACK TO job")?.execute([])?;
                    self.ledger = before;
                    Some(StoreError::of_sqlite(&self.path, &error))
                }
            };
            transaction.prepare_cached("RELEASE job")?.execute([])?;
            failures.push(failure);
        }
        self.ledger.complete(&transaction)?;
        transaction.commit()?;
        // A job may have failed because what the ledger remembers is not what the database says.
        self.stale = failures.iter().any(Option::is_some);
        Ok(failures)
    }

    /// Checkpoints the write-ahead log when it is long, so that it does not grow for ever. Left to
    /// SQLite this would happen inside a commit.
    fn checkpoint(&mut self) {
        let limit =
            if self.waiting.is_empty() { CHECKPOINT_IDLE_PAGES } else { CHECKPOINT_FORCE_PAGES };
        let moved = self
            .wal_backlog("NOOP")
            .and_then(|pages| if pages < limit { Ok(pages) } else { self.wal_backlog("PASSIVE") });
        match moved {
            Ok(_) => self.checkpoint_failed = false,
            // Once, and not with every transaction until it works again.
            Err(error) if !self.checkpoint_failed => {
                self.checkpoint_failed = true;
                let error = StoreError::of_sqlite(&self.path, &error);
                tracing::warn!(%error, "the log of a store cannot be moved into its file");
            }
            Err(_) => {}
        }
    }

    /// Pages that are in the write-ahead log and not in the file, after a checkpoint of this kind.
    fn wal_backlog(&self, kind: &str) -> rusqlite::Result<i64> {
        self.database.query_row(&format!("PRAGMA wal_checkpoint({kind})"), [], |row| {
            Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?)
        })
    }
}

#[cfg(test)]
mod tests;
