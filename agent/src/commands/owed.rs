//! The last answer of a command, which is owed until the caller has shown that it read it.

use tracing::warn;

use super::Commands;
use super::cut::cut_frame;
use super::milestone::{Milestone, Trace};
use crate::store::{AuditEntry, Channel};

/// The last answer of a command: its result, or the error in place of one.
pub struct Owed<'a> {
    commands: &'a Commands,
    command_id: String,
    text: String,
    /// Present until the answer was written for the first time.
    trace: Option<Trace>,
}

impl<'a> Owed<'a> {
    pub(super) fn new(
        commands: &'a Commands,
        command_id: String,
        text: String,
        trace: Option<Trace>,
    ) -> Self {
        Self { commands, command_id, text, trace }
    }

    /// The trace of an answer that was not written.
    pub(super) fn into_unwritten(self) -> Option<Trace> {
        self.trace
    }

    /// The command.
    pub fn command_id(&self) -> &str {
        &self.command_id
    }

    /// The answer as JSON. It names the session that the command came from, or none.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Cuts the answer so that its frame has at most `bound` bytes, because the caller takes no longer
    /// ones: in the journal as well, so that the longer one is not tried again after a restart.
    pub async fn cut(&mut self, bound: usize) {
        let Some(cut) = cut_frame(&self.text, bound).filter(|cut| *cut != self.text) else {
            return;
        };
        let parts = &self.commands.parts;
        warn!(command = self.command_id, from = self.text.len(), to = cut.len(), "a result is cut");
        parts.audit.append(AuditEntry {
            command_id: Some(self.command_id.clone()),
            payload: cut.clone().into_bytes(),
            ..parts.audit_entry(Channel::Endpoint, "CommandResultCut")
        });
        if let Err(error) = parts.journal.result_cut(&self.command_id, cut.clone()).await {
            warn!(command = self.command_id, %error, "the journal keeps the longer result");
        }
        self.text = cut;
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
