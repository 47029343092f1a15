//! Delivers last answers of commands: each is journalled before the caller has it.

use tracing::warn;

use super::Commands;
use super::answers::Caller;
use super::milestone::{Milestone, Trace};
use super::owed::Owed;
use crate::store::StoreError;

impl Commands {
    /// Last answers that were not read yet, at most so many. Those of commands that an earlier process
    /// took are among them.
    ///
    /// # Errors
    ///
    /// The journal cannot be read.
    pub async fn owed(&self, limit: usize) -> Result<Vec<Owed<'_>>, StoreError> {
        let entries = self.parts.journal.unsent(limit).await?;
        let owed = entries.into_iter().filter_map(|entry| {
            let (command_id, text) = (entry.command.command_id, entry.result_json?);
            Some(Owed::new(self, command_id, text, None))
        });
        Ok(owed.collect())
    }

    /// Makes the last answer of a command durable and hands it to the caller.
    pub(super) async fn persist_and_send(
        &self,
        caller: &dyn Caller,
        command_id: &str,
        text: String,
        mut trace: Option<Trace>,
    ) {
        // Before the journal has it: nothing else may deliver it too.
        caller.expect_last_answer(command_id);
        let kept = self.parts.journal.result_ready(command_id, text.clone()).await;
        self.note_store(kept.is_ok());
        match kept {
            Ok(()) => {
                if let Some(trace) = &mut trace {
                    self.reach(trace, Milestone::ResultReady);
                }
            }
            // The caller still learns of it now. After a crash it learns that the result is unknown.
            Err(error) => warn!(command = command_id, %error, "a result could not be journalled"),
        }
        let mut owed = Owed::new(self, command_id.to_owned(), text, trace);
        caller.deliver(&mut owed).await;
        // The answer was not written in this process's first attempt.
        if let Some(trace) = owed.into_unwritten() {
            self.parts.observer.finished(&trace);
        }
    }
}
