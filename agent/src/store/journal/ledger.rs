//! The journal's tables, on the writer's thread.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row};

use super::{CommandState, JournalCounts, JournalEntry, NewCommand};
use crate::store::StoreError;
use crate::store::writer::Ledger;
use protocol::timestamp::Timestamp;

/// Columns of a [`JournalEntry`] in the order in which [`entry`] reads them.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT command_id, tenant_id, tool, correlation_id, operator_id, accepted_at, state, \
             result_json, seq FROM command ",
            $rest
        )
    };
}

/// The commands and how many there are of each state.
#[derive(Clone)]
pub(super) struct CommandLedger {
    counts: JournalCounts,
    shown: Arc<Mutex<JournalCounts>>,
}

impl CommandLedger {
    pub fn new(shown: Arc<Mutex<JournalCounts>>) -> Self {
        Self { counts: JournalCounts::default(), shown }
    }

    /// Gives the time at which a command of this id was accepted before.
    pub fn accept(
        &mut self,
        database: &Connection,
        command: &NewCommand,
    ) -> rusqlite::Result<Option<Timestamp>> {
        let earlier = database
            .prepare_cached("SELECT accepted_at FROM command WHERE command_id = ?1")?
            .query_row([&command.command_id], |row| row.get(0))
            .optional()?;
        if let Some(accepted_at) = earlier {
            return Ok(Some(Timestamp::from_millis(accepted_at)));
        }
        database
            .prepare_cached(
                "INSERT INTO command (command_id, tenant_id, tool, correlation_id, operator_id,
                     accepted_at, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)",
            )?
            .execute((
                &command.command_id,
                &command.tenant_id,
                &command.tool,
                &command.correlation_id,
                &command.operator_id,
                command.accepted_at.millis(),
            ))?;
        self.counts.accepted = self.counts.accepted.saturating_add(1);
        Ok(None)
    }

    /// Takes a command to a later state, before its result. Gives the state it was in.
    pub fn advance(
        &mut self,
        database: &Connection,
        command_id: &str,
        state: CommandState,
    ) -> rusqlite::Result<Option<CommandState>> {
        let before = state_of(database, command_id)?;
        if let Some(before) = before
            && before < state
        {
            database
                .prepare_cached("UPDATE command SET state = ?2 WHERE command_id = ?1")?
                .execute((command_id, state.number()))?;
            self.moved(before, state);
        }
        Ok(before)
    }

    /// Gives a command its result, when it has none. Gives the state it was in.
    pub fn finish(
        &mut self,
        database: &Connection,
        command_id: &str,
        result_json: &str,
    ) -> rusqlite::Result<Option<CommandState>> {
        let before = state_of(database, command_id)?;
        if let Some(before) = before
            && before < CommandState::ResultReady
        {
            database
                .prepare_cached(
                    "UPDATE command SET state = 3, result_json = ?2 WHERE command_id = ?1",
                )?
                .execute((command_id, result_json))?;
            self.moved(before, CommandState::ResultReady);
        }
        Ok(before)
    }

    /// Replaces a result that is not sent by a shorter one. Gives whether there was such a result.
    pub fn cut(
        database: &Connection,
        command_id: &str,
        result_json: &str,
    ) -> rusqlite::Result<bool> {
        let changed = database
            .prepare_cached(
                "UPDATE command SET result_json = ?2
                 WHERE command_id = ?1 AND state = 3 AND octet_length(result_json) > octet_length(?2)",
            )?
            .execute((command_id, result_json))?;
        Ok(changed > 0)
    }

    /// Marks a result as sent.
    pub fn retire(&mut self, database: &Connection, command_id: &str) -> rusqlite::Result<()> {
        let changed = database
            .prepare_cached("UPDATE command SET state = 4 WHERE command_id = ?1 AND state = 3")?
            .execute([command_id])?;
        if changed > 0 {
            self.moved(CommandState::ResultReady, CommandState::Sent);
        }
        Ok(())
    }

    /// Removes some of the oldest sent commands.
    pub fn prune(
        &mut self,
        database: &Connection,
        before: Timestamp,
        most: usize,
    ) -> rusqlite::Result<usize> {
        let pruned = database
            .prepare_cached(
                "DELETE FROM command WHERE seq IN
                     (SELECT seq FROM command WHERE state = 4 AND accepted_at < ?1
                      ORDER BY accepted_at LIMIT ?2)",
            )?
            .execute((before.millis(), (most as u64).cast_signed()))?;
        self.counts.sent = self.counts.sent.saturating_sub(pruned as u64);
        Ok(pruned)
    }

    fn moved(&mut self, from: CommandState, to: CommandState) {
        let from = self.counts.of(from);
        *from = from.saturating_sub(1);
        let to = self.counts.of(to);
        *to = to.saturating_add(1);
    }
}

impl Ledger for CommandLedger {
    fn load(&mut self, database: &Connection) -> rusqlite::Result<()> {
        self.counts = JournalCounts::default();
        let mut statement =
            database.prepare("SELECT state, count(*) FROM command GROUP BY state")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            *self.counts.of(state(row, 0)?) = row.get::<_, i64>(1)?.unsigned_abs();
        }
        Ok(())
    }

    fn publish(&mut self) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = self.counts;
    }

    fn lost(&self, jobs: u64, error: &StoreError) {
        tracing::warn!(jobs, %error, "notes in the journal were lost");
    }
}

fn state_of(database: &Connection, command_id: &str) -> rusqlite::Result<Option<CommandState>> {
    database
        .prepare_cached("SELECT state FROM command WHERE command_id = ?1")?
        .query_row([command_id], |row| state(row, 0))
        .optional()
}

/// Commands without a result, oldest first.
pub(super) fn unfinished(database: &Connection) -> rusqlite::Result<Vec<JournalEntry>> {
    let mut statement = database.prepare(select!("WHERE state < 3 ORDER BY seq"))?;
    statement.query_map([], entry)?.collect()
}

/// Results that are not sent, oldest first, until one of the limits is reached.
pub(super) fn unsent(
    database: &Connection,
    after: i64,
    limit: usize,
    bytes: usize,
) -> rusqlite::Result<Vec<(i64, JournalEntry)>> {
    let mut statement =
        database.prepare_cached(select!("WHERE state = 3 AND seq > ?1 ORDER BY seq LIMIT ?2"))?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query([after, limit])?;
    let mut found = Vec::new();
    let mut total = 0_usize;
    while let Some(row) = rows.next()? {
        let (number, entry) = (row.get(8)?, entry(row)?);
        total = total.saturating_add(entry.result_json.as_ref().map_or(0, String::len));
        if total > bytes && !found.is_empty() {
            break;
        }
        found.push((number, entry));
    }
    Ok(found)
}

/// Commands that are not done with.
pub(super) fn owed(database: &Connection) -> rusqlite::Result<HashSet<String>> {
    let mut statement =
        database.prepare_cached("SELECT command_id FROM command WHERE state < 4")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// One command.
pub(super) fn find(
    database: &Connection,
    command_id: &str,
) -> rusqlite::Result<Option<JournalEntry>> {
    database
        .prepare_cached(select!("WHERE command_id = ?1"))?
        .query_row([command_id], entry)
        .optional()
}

fn entry(row: &Row<'_>) -> rusqlite::Result<JournalEntry> {
    let command = NewCommand {
        command_id: row.get(0)?,
        tenant_id: row.get(1)?,
        tool: row.get(2)?,
        correlation_id: row.get(3)?,
        operator_id: row.get(4)?,
        accepted_at: Timestamp::from_millis(row.get(5)?),
    };
    Ok(JournalEntry { command, state: state(row, 6)?, result_json: row.get(7)? })
}

fn state(row: &Row<'_>, column: usize) -> rusqlite::Result<CommandState> {
    CommandState::of_number(row.get(column)?).ok_or_else(|| {
        let detail = "no state of a command".into();
        rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, detail)
    })
}
