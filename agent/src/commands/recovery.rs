//! Commands of a process that did not end well.

use thiserror::Error;
use tracing::warn;

use super::Parts;
use super::outcome::{Outcome, Problem, empty_evidence};
use crate::store::{AuditEntry, Channel, CommandState, JournalEntry, StoreError};
use protocol::code::ErrorCode;
use protocol::message::{CommandResult, Frame, ResultHead};

/// Why the commands of an earlier process cannot be answered for. Without that no new ones are
/// taken.
#[derive(Debug, Error)]
#[error("the journal's unfinished commands cannot be closed: {0}")]
pub struct RecoveryError(#[from] StoreError);

/// Writes a result for every command that has none. None of them is run again: it is unknown how
/// far it came.
pub(super) async fn recover(parts: &Parts) -> Result<(), RecoveryError> {
    for entry in parts.journal.unfinished() {
        warn!(command = entry.command.command_id, state = ?entry.state, "left by an earlier process");
        let frame = last_answer(parts, entry);
        parts.audit.append(AuditEntry {
            command_id: Some(entry.command.command_id.clone()),
            tenant_id: Some(entry.command.tenant_id.clone()),
            lifecycle_state: Some("failed".to_owned()),
            code: Some(ErrorCode::Internal.as_str().to_owned()),
            payload: frame.clone().into_bytes(),
            ..parts.audit_entry(Channel::Endpoint, "CommandAbandoned")
        });
        parts.journal.result_ready(&entry.command.command_id, frame).await?;
    }
    Ok(())
}

fn last_answer(parts: &Parts, entry: &JournalEntry) -> String {
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
