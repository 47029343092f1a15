//! Delivers last answers of commands: each is journalled as soon as the disk takes it, and delivered
//! whatever the disk does.

use std::time::Duration;

use tracing::warn;

use super::Commands;
use super::answers::Caller;
use super::milestone::{Milestone, Trace};
use super::owed::Owed;
use crate::store::{JournalRoom, StoreError};

/// Wait before a result is offered to the journal again; it doubles up to [`RETRY_MOST`].
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(5);

impl Commands {
    /// Last answers that were not read yet, at most so many, from the oldest on or from after the one
    /// with that number. Those of commands that an earlier process took are among them.
    ///
    /// # Errors
    ///
    /// The journal cannot be read.
    pub async fn owed(
        &self,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<Owed<'_>>, StoreError> {
        let entries = self.parts.journal.unsent(after, limit).await?;
        let owed = entries.into_iter().filter_map(|(number, entry)| {
            let (command_id, text) = (entry.command.command_id, entry.result_json?);
            Some(Owed::journalled(self, number, command_id, text))
        });
        Ok(owed.collect())
    }

    /// The caller reports that it has read these answers, which the journal has. What cannot be noted there
    /// stays owed and is delivered again later.
    pub async fn read(&self, owed: &mut [Owed<'_>]) {
        let mut command_ids = Vec::with_capacity(owed.len());
        for owed in owed {
            owed.is_read_by_caller();
            command_ids.push(owed.command_id().to_owned());
        }
        if command_ids.is_empty() {
            return;
        }
        let noted = self.parts.journal.sent(command_ids).await;
        self.note_store(noted.is_ok());
        if let Err(error) = noted {
            warn!(%error, "results that were delivered stay owed");
        }
        // Evidence that was kept because its result was owed may have to go now.
        if self.parts.evidence.is_full() {
            self.sweep_evidence().await;
        }
    }

    /// Makes the last answer of a command durable and hands it to the caller. While the journal does
    /// not take it, it is kept here, delivered from here, and offered to the journal again. `held` is
    /// given up when the journal has it.
    pub(super) async fn persist_and_send<Held: Send>(
        &self,
        caller: &dyn Caller,
        command_id: &str,
        text: String,
        trace: Option<Trace>,
        mut room: Option<JournalRoom>,
        held: Held,
    ) {
        let mut owed = Owed::new(self, command_id.to_owned(), text, trace);
        let mut wait = RETRY_FIRST;
        loop {
            if !owed.is_read() {
                // Before the journal has it: nothing else may deliver it too.
                caller.expect_last_answer(command_id);
            }
            let kept = self.parts.journal.result_ready(command_id, owed.text().to_owned()).await;
            self.note_store(kept.is_ok());
            match kept {
                Ok(()) => break,
                Err(StoreError::Full { .. }) if room.as_mut().is_some_and(JournalRoom::release) => {
                }
                Err(refused @ StoreError::Refused { .. }) => {
                    warn!(command = command_id, %refused, "the command has a result already");
                    owed.be_the_journals().await;
                    break;
                }
                Err(error) => {
                    warn!(command = command_id, %error, "a result is not journalled yet");
                    if !owed.is_read() {
                        caller.deliver(&mut owed).await;
                    }
                    tokio::time::sleep(wait).await;
                    wait = wait.saturating_mul(2).min(RETRY_MOST);
                }
            }
        }
        drop((room, held));
        owed.reach(Milestone::ResultReady);
        if owed.journal_has_it().await {
            caller.deliver(&mut owed).await;
        }
        // The answer was not written in this process's first attempt.
        if let Some(trace) = owed.into_unwritten() {
            self.parts.observer.finished(&trace);
        }
    }
}
