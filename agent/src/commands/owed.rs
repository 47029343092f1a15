//! The last answer of a command, which is owed until the caller has shown that it read it.

use tracing::warn;

use super::Commands;
use super::cut::cut_frame;
use super::milestone::{Milestone, Trace};
use crate::store::{AuditEntry, Channel, JournalEntry};

/// The last answer of a command: its result, or the error in place of one.
pub struct Owed<'a> {
    commands: &'a Commands,
    command_id: String,
    text: String,
    /// The answer's number in the journal; none while this process alone has it.
    number: Option<i64>,
    is_journalled: bool,
    is_read: bool,
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
        let (number, is_journalled, is_read) = (None, false, false);
        Self { commands, command_id, text, number, is_journalled, is_read, trace }
    }

    /// One that the journal has under that number.
    pub(super) fn journalled(
        commands: &'a Commands,
        number: i64,
        command_id: String,
        text: String,
    ) -> Self {
        let (number, is_journalled, is_read, trace) = (Some(number), true, false, None);
        Self { commands, command_id, text, number, is_journalled, is_read, trace }
    }

    /// Whether the caller has read it.
    pub(super) fn is_read(&self) -> bool {
        self.is_read
    }

    /// Notes that its command has come this far.
    pub(super) fn reach(&mut self, milestone: Milestone) {
        if let Some(trace) = &mut self.trace {
            self.commands.reach(trace, milestone);
        }
    }

    /// Takes the answer that the journal has for the command.
    pub(super) async fn be_the_journals(&mut self) {
        let found = self.commands.parts.journal.find(&self.command_id).await;
        if let Ok(Some(JournalEntry { result_json: Some(text), .. })) = found {
            self.text = text;
        }
    }

    /// The journal has the answer from now on. Returns whether the caller still has to be given it.
    pub(super) async fn journal_has_it(&mut self) -> bool {
        self.is_journalled = true;
        if self.is_read {
            self.note_read().await;
        }
        !self.is_read
    }

    /// The answer's number in the journal. Later answers may have smaller ones.
    pub fn number(&self) -> Option<i64> {
        self.number
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
        if self.is_journalled
            && let Err(error) = parts.journal.result_cut(&self.command_id, cut.clone()).await
        {
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
        self.is_read_by_caller();
        // What the journal does not have yet cannot be noted there, and is when it has it.
        !self.is_journalled || self.note_read().await
    }

    pub(super) fn is_read_by_caller(&mut self) {
        self.is_read = true;
        self.commands.parts.observer.reached(&self.command_id, Milestone::Confirmed);
    }

    async fn note_read(&self) -> bool {
        let Self { commands, command_id, .. } = self;
        let noted = commands.parts.journal.sent(vec![command_id.clone()]).await;
        commands.note_store(noted.is_ok());
        // Evidence that was kept because its result was owed may have to go now.
        if commands.parts.evidence.is_full() {
            commands.sweep_evidence().await;
        }
        noted.is_ok()
    }
}
