//! The journal of commands: what was accepted, how far it came, what its result was.
//!
//! After a restart it says which commands were begun and have no result, and which results the
//! relay has not been sent. A command id that is in it is never accepted again.

mod ledger;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use thiserror::Error;

use super::StoreError;
use super::database::{self, DamageCheck, Kind};
pub use super::reserve::JournalRoom;
use super::reserve::Reserve;
use super::writer::Writer;
use ledger::CommandLedger;
use protocol::timestamp::Timestamp;

/// Longest text of a result.
pub const MAX_RESULT_BYTES: usize = 4 << 20;

/// Results that are handed out at once have no more text than this, or are one.
const MAX_UNSENT_BYTES: usize = 16 << 20;

/// Jobs that may wait. More than two for each command that can be in flight.
const QUEUE: usize = 8192;

/// Disk space that is kept for a result: as much as one of the usual bound takes twice. Longer ones share
/// what is kept for all.
const RESERVED_BYTES: u64 = 128 << 10;

/// Entries that are removed in one transaction.
const PRUNE_AT_ONCE: usize = 1000;

const KIND: Kind = Kind {
    name: "journal",
    application_id: 0x4253_4d6a,
    version: 1,
    schema: "
        CREATE TABLE command (
            seq INTEGER PRIMARY KEY,
            command_id TEXT NOT NULL UNIQUE,
            tenant_id TEXT NOT NULL,
            tool TEXT NOT NULL,
            correlation_id TEXT NOT NULL,
            operator_id TEXT NOT NULL,
            accepted_at INTEGER NOT NULL,
            state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 4),
            result_json TEXT CHECK ((result_json IS NULL) = (state < 3))
        ) STRICT;
        CREATE INDEX command_not_sent ON command (state, seq) WHERE state < 4;
        CREATE INDEX command_sent ON command (accepted_at) WHERE state = 4;
    ",
    shared: false,
    check: DamageCheck::Whole,
};

/// How far a command has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommandState {
    /// It may run, once.
    Accepted,
    /// The relay was told so.
    Acked,
    /// A machine has the command's tool.
    Started,
    /// The command's result is known.
    ResultReady,
    /// The relay was sent the result, or it was given up.
    Sent,
}

impl CommandState {
    const ALL: [Self; 5] =
        [Self::Accepted, Self::Acked, Self::Started, Self::ResultReady, Self::Sent];

    /// How the journal writes it.
    fn number(self) -> i64 {
        self as i64
    }

    fn of_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.number() == number)
    }
}

/// A command that is about to be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCommand {
    /// Names the command, for ever.
    pub command_id: String,
    /// Whose command it is.
    pub tenant_id: String,
    /// The tool it runs.
    pub tool: String,
    /// What the operator calls it.
    pub correlation_id: String,
    /// Who asked for it.
    pub operator_id: String,
    /// When it was accepted.
    pub accepted_at: Timestamp,
}

/// What the journal knows of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// The command as it was accepted.
    pub command: NewCommand,
    /// How far it came.
    pub state: CommandState,
    /// The result as it was written, from [`CommandState::ResultReady`] on.
    pub result_json: Option<String>,
}

/// How many commands are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct JournalCounts {
    /// In [`CommandState::Accepted`].
    pub accepted: u64,
    /// In [`CommandState::Acked`].
    pub acked: u64,
    /// In [`CommandState::Started`].
    pub started: u64,
    /// In [`CommandState::ResultReady`].
    pub result_ready: u64,
    /// In [`CommandState::Sent`].
    pub sent: u64,
}

impl JournalCounts {
    fn of(&mut self, state: CommandState) -> &mut u64 {
        match state {
            CommandState::Accepted => &mut self.accepted,
            CommandState::Acked => &mut self.acked,
            CommandState::Started => &mut self.started,
            CommandState::ResultReady => &mut self.result_ready,
            CommandState::Sent => &mut self.sent,
        }
    }
}

/// Why a command was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JournalError {
    /// There was a command of this id before.
    #[error("the command {command_id} was accepted before, at {accepted_at}")]
    Duplicate {
        /// The id.
        command_id: String,
        /// When it was accepted.
        accepted_at: Timestamp,
    },
    /// The journal failed. The command counts as not accepted.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The journal, on disk.
pub struct Journal {
    writer: Writer<CommandLedger>,
    counts: Arc<Mutex<JournalCounts>>,
    unfinished: Vec<JournalEntry>,
    reserve: Arc<Reserve>,
}

impl Journal {
    /// Opens the journal, or makes it. Only one process can have it open.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let (database, path) = database::open(path, &KIND)?;
        let unfinished =
            ledger::unfinished(&database).map_err(|error| StoreError::of_sqlite(&path, &error))?;
        let counts = Arc::default();
        let commands = CommandLedger::new(Arc::clone(&counts));
        let reserve = Reserve::open(&path.with_extension("reserve"), RESERVED_BYTES)?;
        let writer = Writer::start("journal", path, database, commands, QUEUE)?;
        Ok(Self { writer, counts, unfinished, reserve })
    }

    /// Keeps space on the disk for the result of a command that is about to be accepted.
    ///
    /// # Errors
    ///
    /// The disk has no room for it.
    pub async fn reserve(&self) -> Result<JournalRoom, StoreError> {
        if let Some(room) = self.reserve.take_kept() {
            return Ok(room);
        }
        let reserve = Arc::clone(&self.reserve);
        let taken = tokio::task::spawn_blocking(move || reserve.take()).await;
        taken.map_err(|_| StoreError::Closed { path: self.path().to_path_buf() })?
    }

    /// Gives all space back that was kept for results, so that they can be written.
    pub fn release_reserve(&self) {
        self.reserve.release_all();
    }

    /// Lets the file grow no further, or again: as on a full disk.
    #[cfg(any(test, feature = "testing"))]
    pub async fn set_full(&self, is_full: bool) -> Result<(), StoreError> {
        let most = if is_full { 1_i64 } else { i64::from(u32::MAX) - 1 };
        self.writer
            .call(move |_, database| {
                // A limit below the present size is that size.
                database.pragma_update_and_check(None, "max_page_count", most, |_| Ok(()))
            })
            .await
    }

    /// Accepts a command, once. When this returns `Ok` that is on disk. A command id that was
    /// seen before is refused, in whatever state it is.
    pub async fn accept(&self, command: NewCommand) -> Result<(), JournalError> {
        let command_id = command.command_id.clone();
        let earlier =
            self.writer.call(move |commands, database| commands.accept(database, &command)).await?;
        match earlier {
            None => Ok(()),
            Some(accepted_at) => Err(JournalError::Duplicate { command_id, accepted_at }),
        }
    }

    /// Notes that a command was acked or started, without waiting for the disk. Notes keep their
    /// order with everything else. One may be lost when the disk fails or is far behind: the
    /// command then counts as less far, and still as unfinished.
    pub fn note(&self, command_id: &str, state: CommandState) {
        let command_id = command_id.to_owned();
        let noted = self.writer.cast(move |commands, database| {
            if state < CommandState::ResultReady {
                commands.advance(database, &command_id, state)?;
            }
            Ok(())
        });
        if let Err(error) = noted {
            tracing::warn!(%error, "a note in the journal was lost");
        }
    }

    /// Keeps the result of a command. When this returns `Ok` it is on disk. A result is never
    /// replaced by another.
    pub async fn result_ready(
        &self,
        command_id: &str,
        result_json: String,
    ) -> Result<(), StoreError> {
        if result_json.len() > MAX_RESULT_BYTES {
            let length = result_json.len();
            return Err(self.refused(format!(
                "the result of {command_id} has {length} bytes, more than {MAX_RESULT_BYTES}"
            )));
        }
        let id = command_id.to_owned();
        let before = self
            .writer
            .call(move |commands, database| commands.finish(database, &id, &result_json))
            .await?;
        match before {
            Some(state) if state < CommandState::ResultReady => Ok(()),
            Some(_) => Err(self.refused(format!("the command {command_id} has a result already"))),
            None => Err(self.refused(format!("there is no command {command_id}"))),
        }
    }

    /// Replaces a result that is not sent by a shorter one. When this returns `Ok` that is on disk.
    ///
    /// # Errors
    ///
    /// The journal fails, or has no such result.
    pub async fn result_cut(
        &self,
        command_id: &str,
        result_json: String,
    ) -> Result<(), StoreError> {
        let id = command_id.to_owned();
        let cut = move |_: &mut CommandLedger, database: &Connection| {
            CommandLedger::cut(database, &id, &result_json)
        };
        if self.writer.call(cut).await? {
            return Ok(());
        }
        Err(self.refused(format!("there is no longer result of {command_id} that is not sent")))
    }

    /// Notes that the relay has these results, or that they are given up. When this returns `Ok`
    /// that is on disk. Commands that have no result are left as they are.
    pub async fn sent(&self, command_ids: Vec<String>) -> Result<(), StoreError> {
        self.writer
            .call(move |commands, database| {
                command_ids.iter().try_for_each(|id| commands.retire(database, id))
            })
            .await
    }

    /// Commands that had no result when the journal was opened, oldest first: an earlier process
    /// began them, and they are not running.
    pub fn unfinished(&self) -> &[JournalEntry] {
        &self.unfinished
    }

    /// Results that are not marked as sent, in the order in which their commands were accepted, each
    /// with its number: those after the number that is given, at most `limit`, and fewer when they are
    /// long.
    pub async fn unsent(
        &self,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<(i64, JournalEntry)>, StoreError> {
        let after = after.unwrap_or(i64::MIN);
        self.writer
            .call(move |_, database| ledger::unsent(database, after, limit, MAX_UNSENT_BYTES))
            .await
    }

    /// Commands that have no result yet, or whose result is not marked as sent.
    pub async fn owed(&self) -> Result<HashSet<String>, StoreError> {
        self.writer.call(|_, database| ledger::owed(database)).await
    }

    /// What is known of one command.
    pub async fn find(&self, command_id: &str) -> Result<Option<JournalEntry>, StoreError> {
        let command_id = command_id.to_owned();
        self.writer.call(move |_, database| ledger::find(database, &command_id)).await
    }

    /// Forgets sent commands that were accepted before a time, and gives their number. Until then
    /// their ids are refused, so it must be longer ago than an envelope can live.
    pub async fn prune(&self, before: Timestamp) -> Result<usize, StoreError> {
        let mut pruned = 0;
        loop {
            // In small parts, so that commands need not wait long.
            let part = self
                .writer
                .call(move |commands, database| commands.prune(database, before, PRUNE_AT_ONCE))
                .await?;
            pruned += part;
            if part < PRUNE_AT_ONCE {
                return Ok(pruned);
            }
        }
    }

    /// How many commands are in which state.
    pub fn counts(&self) -> JournalCounts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.writer.path()
    }

    fn refused(&self, detail: String) -> StoreError {
        StoreError::Refused { path: self.path().to_path_buf(), detail }
    }
}

#[cfg(test)]
mod tests;
