//! Nonces that were spent, so that no envelope runs twice.
//!
//! A nonce is kept until its envelope can no longer pass the check of times, which is
//! 60 s after it expires, and for at least 7 minutes after it was spent. After that it is
//! forgotten only when its room is needed. Of what is forgotten one number stays for good: the
//! latest expiry among it. An envelope that expires no later than that is refused, because its
//! nonce may be one of the forgotten. So no step of the clock, in whatever direction, makes a
//! nonce good twice: if it is not stored, then either it was never spent or its envelope expires
//! no later than that number. With a clock that does not step this refuses nothing, because what
//! is forgotten has expired more than 60 s ago.
//!
//! Entries that cannot be forgotten yet never make room: a full store refuses.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row};
use thiserror::Error;

use super::StoreError;
use super::database::{self, DamageCheck, Kind};
use super::file::{directory_of, volatile_filesystem};
use super::writer::{Ledger, Writer};
use protocol::code::ErrorCode;
use protocol::timestamp::Timestamp;
use protocol::verify::MAX_SKEW_MS;

/// How far the clocks of relay and endpoint may be apart.
const SKEW: Duration = Duration::from_millis(MAX_SKEW_MS.unsigned_abs());

/// Shortest time a spent nonce is kept: an envelope lives 5 minutes and may be early and late by
/// [`SKEW`].
const RETENTION: Duration = Duration::from_secs(7 * 60);

/// Longest nonce that is looked at. The protocol's have 43 characters.
const MAX_NONCE: usize = 128;

/// Callers that may wait before others wait to be let in.
const QUEUE: usize = 4096;

/// Entries that are forgotten at once when room is needed.
const FORGET_AT_ONCE: u64 = 64;

const KIND: Kind = Kind {
    name: "nonce store",
    application_id: 0x4253_4d6e,
    version: 1,
    schema: "
        CREATE TABLE nonce (
            nonce TEXT PRIMARY KEY NOT NULL,
            command_id TEXT NOT NULL,
            expires_at INTEGER NOT NULL,
            keep_until INTEGER NOT NULL
        ) WITHOUT ROWID, STRICT;
        CREATE INDEX nonce_by_keep_until ON nonce (keep_until);
        CREATE TABLE forgotten (
            only INTEGER PRIMARY KEY CHECK (only = 1),
            latest_expiry INTEGER NOT NULL
        ) STRICT;
        INSERT INTO forgotten VALUES (1, -9223372036854775808);
    ",
    shared: false,
    check: DamageCheck::Whole,
};

/// Why a nonce was not spent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NonceError {
    /// It was spent before.
    #[error("the nonce was spent before, by command {command_id}")]
    Replay {
        /// The command it was spent for.
        command_id: String,
    },
    /// It may have been spent before: the clock was set back, and what was stored of that time
    /// has been forgotten.
    #[error(
        "the nonce may have been spent before: the clock went back, and envelopes that expire \
         until {} are no longer remembered; send the command again",
        forgotten_until
    )]
    ClockWentBack {
        /// Envelopes that expire later than this are not affected.
        forgotten_until: Timestamp,
    },
    /// The store is full of nonces that have to be kept.
    #[error("{capacity} nonces have to be kept and there is no room for more; wait a few minutes")]
    Full {
        /// Nonces the store may hold.
        capacity: u64,
    },
    /// It is no nonce of the protocol.
    #[error("the nonce is longer than {MAX_NONCE} bytes")]
    TooLong,
    /// The store failed. The nonce counts as not spent, and the command must not run.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl NonceError {
    /// What the relay is told.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Full { .. } => ErrorCode::NonceCacheFull,
            Self::Store(_) => ErrorCode::Internal,
            Self::Replay { .. } | Self::ClockWentBack { .. } | Self::TooLong => {
                ErrorCode::NonceReplay
            }
        }
    }
}

/// The nonces that were spent, on disk.
pub struct NonceStore {
    writer: Writer<Nonces>,
    stored: Arc<AtomicU64>,
}

impl NonceStore {
    /// Opens the store for `capacity` nonces, or makes it. Only one process can have it open.
    pub fn open(path: &Path, capacity: usize) -> Result<Self, StoreError> {
        if let Some(filesystem) = volatile_filesystem(directory_of(path))? {
            return Err(StoreError::Volatile { path: path.to_path_buf(), filesystem });
        }
        Self::open_anywhere(path, capacity)
    }

    /// Like [`NonceStore::open`], on a file system that may forget everything. For tests: with it
    /// a restart of the machine makes every nonce good again.
    pub fn open_anywhere(path: &Path, capacity: usize) -> Result<Self, StoreError> {
        let (database, path) = database::open(path, &KIND)?;
        let stored = Arc::new(AtomicU64::new(0));
        let nonces = Nonces {
            capacity: capacity as u64,
            stored: 0,
            forgotten: i64::MIN,
            shown: Arc::clone(&stored),
        };
        let writer = Writer::start("nonces", path, database, nonces, QUEUE)?;
        Ok(Self { writer, stored })
    }

    /// Spends a nonce. When this returns `Ok` that is on disk, and for every other caller, now or
    /// after a crash, the nonce is a replay.
    pub async fn spend(
        &self,
        nonce: &str,
        command_id: &str,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), NonceError> {
        if nonce.len() > MAX_NONCE {
            return Err(NonceError::TooLong);
        }
        let (nonce, command_id) = (nonce.to_owned(), command_id.to_owned());
        let (expires_at, now) = (expires_at.millis(), now.millis());
        self.writer
            .call(move |nonces, database| {
                nonces.spend(database, &Spend { nonce, command_id, expires_at, now })
            })
            .await?
    }

    /// Nonces that have to be kept at this time; the capacity less this is the room that is left.
    pub async fn live(&self, now: Timestamp) -> Result<u64, StoreError> {
        let now = now.millis();
        self.writer
            .call(move |_, database| {
                database
                    .prepare_cached("SELECT count(*) FROM nonce WHERE keep_until >= ?1")?
                    .query_row([now], count)
            })
            .await
    }

    /// Nonces in the store, with those that may be forgotten.
    pub fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.writer.path()
    }
}

struct Spend {
    nonce: String,
    command_id: String,
    expires_at: i64,
    now: i64,
}

/// The writer's side.
#[derive(Clone)]
struct Nonces {
    capacity: u64,
    stored: u64,
    /// Latest expiry among what was forgotten.
    forgotten: i64,
    shown: Arc<AtomicU64>,
}

impl Ledger for Nonces {
    fn load(&mut self, database: &Connection) -> rusqlite::Result<()> {
        self.stored = database.query_row("SELECT count(*) FROM nonce", [], count)?;
        self.forgotten =
            database.query_row("SELECT latest_expiry FROM forgotten", [], |row| row.get(0))?;
        Ok(())
    }

    fn publish(&mut self) {
        self.shown.store(self.stored, Ordering::Relaxed);
    }

    fn lost(&self, _jobs: u64, _error: &StoreError) {}
}

impl Nonces {
    /// The inner result is the answer; only a failure of the database undoes the transaction.
    fn spend(
        &mut self,
        database: &Connection,
        spend: &Spend,
    ) -> rusqlite::Result<Result<(), NonceError>> {
        let spent_by = database
            .prepare_cached("SELECT command_id FROM nonce WHERE nonce = ?1")?
            .query_row([&spend.nonce], |row| row.get(0))
            .optional()?;
        if let Some(command_id) = spent_by {
            return Ok(Err(NonceError::Replay { command_id }));
        }
        if spend.expires_at <= self.forgotten {
            let forgotten_until = Timestamp::from_millis(self.forgotten);
            return Ok(Err(NonceError::ClockWentBack { forgotten_until }));
        }
        if self.stored >= self.capacity {
            self.forget(database, spend.now)?;
        }
        if self.stored >= self.capacity {
            return Ok(Err(NonceError::Full { capacity: self.capacity }));
        }
        database.prepare_cached("INSERT INTO nonce VALUES (?1, ?2, ?3, ?4)")?.execute((
            &spend.nonce,
            &spend.command_id,
            spend.expires_at,
            keep_until(spend.expires_at, spend.now),
        ))?;
        self.stored = self.stored.saturating_add(1);
        Ok(Ok(()))
    }

    /// Makes room by forgetting some of what no longer has to be kept, oldest first.
    fn forget(&mut self, database: &Connection, now: i64) -> rusqlite::Result<()> {
        // More than the capacity may be stored when the settings were changed.
        let surplus = self.stored.saturating_sub(self.capacity);
        let most = surplus.saturating_add(FORGET_AT_ONCE).min(FORGET_AT_ONCE * 16);
        let mut statement = database.prepare_cached(
            "DELETE FROM nonce WHERE nonce IN
                 (SELECT nonce FROM nonce WHERE keep_until < ?1 ORDER BY keep_until LIMIT ?2)
             RETURNING expires_at",
        )?;
        let expiries = statement
            .query_map((now, most.cast_signed()), |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<i64>>>()?;
        if let Some(latest) = expiries.iter().max() {
            self.stored = self.stored.saturating_sub(expiries.len() as u64);
            self.forgotten = self.forgotten.max(*latest);
            database
                .prepare_cached("UPDATE forgotten SET latest_expiry = ?1")?
                .execute([self.forgotten])?;
        }
        Ok(())
    }
}

fn count(row: &Row<'_>) -> rusqlite::Result<u64> {
    row.get(0).map(i64::unsigned_abs)
}

/// Last moment at which a nonce has to be known.
fn keep_until(expires_at: i64, now: i64) -> i64 {
    let after = |moment: i64, time: Duration| moment.saturating_add(time.as_millis() as i64);
    after(expires_at, SKEW).max(after(now, RETENTION))
}

#[cfg(test)]
mod tests;
