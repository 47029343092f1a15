//! Commands of a process that did not end well.

use futures_util::future::join_all;
use thiserror::Error;
use tracing::warn;

use super::Parts;
use super::cut::cut_frame;
use super::outcome::{Outcome, Problem, empty_evidence};
use crate::evidence::EvidenceRecord;
use crate::store::{AuditEntry, Channel, CommandState, JournalEntry, StoreError};
use protocol::code::ErrorCode;
use protocol::message::{CommandResult, Frame, ResultHead};

/// Results that are made durable together.
const AT_ONCE: usize = 256;

/// Why the commands of an earlier process cannot be answered for. Without that no new ones are
/// taken.
#[derive(Debug, Error)]
#[error("the journal's unfinished commands cannot be closed: {0}")]
pub struct RecoveryError(#[from] StoreError);

/// Writes a result for every command that has none: the one that its evidence holds, where the command
/// came so far, or one that says that it was given up. None of them is run again.
pub(super) async fn recover(parts: &Parts) -> Result<(), RecoveryError> {
    for entries in parts.journal.unfinished().chunks(AT_ONCE) {
        let mut answers = Vec::with_capacity(entries.len());
        for entry in entries {
            answers.push((entry.command.command_id.as_str(), answer(parts, entry).await));
        }
        if let Err(StoreError::Full { .. }) = keep(parts, &mut answers).await {
            // The space that the earlier process had kept for them.
            parts.journal.release_reserve();
        }
        keep(parts, &mut answers).await?;
    }
    Ok(())
}

/// Makes answers durable, all together, and leaves those that could not be.
async fn keep(parts: &Parts, answers: &mut Vec<(&str, String)>) -> Result<(), StoreError> {
    let kept = answers.iter().map(|(id, text)| parts.journal.result_ready(id, text.clone()));
    let mut kept = join_all(kept).await.into_iter();
    let mut failed = Ok(());
    answers.retain(|_| match kept.next() {
        Some(Err(error)) => {
            failed = Err(error);
            true
        }
        _ => false,
    });
    failed
}

/// The last answer of a command, with an entry in the audit log.
async fn answer(parts: &Parts, entry: &JournalEntry) -> String {
    let command = &entry.command;
    let known = parts.evidence.find(&command.command_id).await;
    let known = known.and_then(|record| result_of(parts, &record));
    let audited = |kind: &str, code: Option<String>, text: &str| {
        let state = if code.is_some() { "failed" } else { "completed" };
        parts.audit.append(AuditEntry {
            command_id: Some(command.command_id.clone()),
            tenant_id: Some(command.tenant_id.clone()),
            lifecycle_state: Some(state.to_owned()),
            code,
            payload: text.as_bytes().to_vec(),
            ..parts.audit_entry(Channel::Endpoint, kind)
        });
    };
    if let Some((result, text)) = known {
        warn!(command = command.command_id, "its result is the one that its evidence holds");
        audited("CommandRecovered", result.error().map(|error| error.code.clone()), &text);
        return text;
    }
    warn!(command = command.command_id, state = ?entry.state, "left by an earlier process");
    let text = abandoned(parts, entry);
    audited("CommandAbandoned", Some(ErrorCode::Internal.as_str().to_owned()), &text);
    text
}

/// The result that a record holds, fit for a frame; none when record and result do not belong together.
fn result_of(parts: &Parts, record: &EvidenceRecord) -> Option<(CommandResult, String)> {
    let result: CommandResult = serde_json::from_value(record.result.clone()).ok()?;
    let is_ours = record.result.get("endpoint_id")?.as_str()? == parts.endpoint.endpoint_id;
    let fits = result.command_id() == record.command_id
        && result.evidence_hash() == record.chunks.hash(&record.command_id);
    if !is_ours || !fits {
        warn!(command = record.command_id, "its evidence and the result in it do not fit together");
        return None;
    }
    let text = cut_frame(&result.to_text(), parts.frame_bytes)?;
    Some((result, text))
}

/// A last answer that says how far the command came, as far as that is known.
fn abandoned(parts: &Parts, entry: &JournalEntry) -> String {
    let message = match entry.state {
        CommandState::Started => {
            "the agent stopped while the tool ran; it was not run again, and its machine is gone"
        }
        // That it started may not have reached the journal.
        CommandState::Acked => {
            "the agent stopped with the command in its queue or just started; it was not run again"
        }
        _ => "the agent stopped before it had acknowledged the command; it was not run",
    };
    if entry.state == CommandState::Accepted {
        // The acknowledgement may not have gone out, and a result may not come before it.
        return parts
            .error_event(Some(&entry.command.command_id), "", ErrorCode::Internal, message)
            .to_text();
    }
    let head = ResultHead {
        command_id: entry.command.command_id.clone(),
        endpoint_id: parts.endpoint.endpoint_id.clone(),
        session_id: String::new(),
        evidence_hash: empty_evidence(&entry.command.command_id),
        ts: (parts.clock)(),
    };
    let problem = Problem { code: ErrorCode::Internal, message: message.to_owned() };
    let mut outcome =
        Outcome { verdict: Err(problem), evidence_hash: head.evidence_hash.clone(), reset: None };
    outcome.anchor(parts.audit.head());
    let message = outcome.verdict.err().map_or_else(String::new, |problem| problem.message);
    CommandResult::failed(head, ErrorCode::Internal, message, None).to_text()
}
