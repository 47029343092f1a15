//! Last answers of commands: journalled first, and owed until the caller has shown that it read them.

use tracing::warn;

use super::Commands;
use super::answers::Caller;
use super::milestone::{Milestone, Trace};
use crate::store::StoreError;

/// The last answer of a command: its result, or the error in place of one.
pub struct Owed<'a> {
    commands: &'a Commands,
    command_id: String,
    text: String,
    /// Present until the answer was written for the first time.
    trace: Option<Trace>,
}

impl Owed<'_> {
    /// The command.
    pub fn command_id(&self) -> &str {
        &self.command_id
    }

    /// The answer as JSON. It names the session that the command came from, or none.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The caller reports that the answer was written to it.
    pub fn written(&mut self) {
        if let Some(mut trace) = self.trace.take() {
            self.commands.reach(&mut trace, Milestone::Sent);
            self.commands.parts.observer.finished(&trace);
        }
    }

    /// The caller reports that the answer was read. Returns whether the journal has noted it: if not,
    /// the answer stays owed and is delivered again later.
    pub async fn read(&mut self) -> bool {
        let Self { commands, command_id, .. } = self;
        commands.parts.observer.reached(command_id, Milestone::Confirmed);
        let noted = commands.parts.journal.sent(vec![command_id.clone()]).await;
        commands.note_store(noted.is_ok());
        // Evidence that was kept because its result was owed may have to go now.
        if commands.parts.evidence.is_full() {
            commands.sweep_evidence().await;
        }
        noted.is_ok()
    }
}

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
            Some(Owed { commands: self, command_id, text, trace: None })
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
        let mut owed = Owed { commands: self, command_id: command_id.to_owned(), text, trace };
        caller.deliver(&mut owed).await;
        // The answer was not written in this process's first attempt.
        if let Some(trace) = owed.trace {
            self.parts.observer.finished(&trace);
        }
    }
}
