//! From the text of an envelope to a command that is answered for, or to a refusal.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use super::answers::{Answer, Caller};
use super::executor::ToolFacts;
use super::milestone::{Milestone, Trace};
use super::policy::Request;
use super::{Commands, deadline};
use crate::store::{AuditEntry, Channel, JournalError, JournalRoom, NewCommand, NonceError};
use guest::registry::CallError;
use protocol::code::ErrorCode;
use protocol::envelope::CommandEnvelope;
use protocol::verify::{Audience, Refusal, verify};

/// A command that the journal has.
pub(super) struct Admitted {
    pub envelope: CommandEnvelope,
    pub tool: ToolFacts,
    pub deadline_ms: i64,
    pub permit: OwnedSemaphorePermit,
    pub room: JournalRoom,
    pub trace: Trace,
}

/// A command that will not run.
pub(super) struct RefusedCommand {
    pub code: ErrorCode,
    pub message: String,
    pub command_id: Option<String>,
    /// `None` as long as no signature vouches for the envelope.
    pub envelope: Option<Box<CommandEnvelope>>,
    /// The command was taken before. A caller that hears of an error under its id takes the command
    /// for failed.
    pub is_known: bool,
}

impl Commands {
    /// Checks an envelope in the order that the module's head gives.
    pub(super) async fn admit(
        &self,
        session_id: &str,
        text: &str,
        received: Instant,
    ) -> Result<Admitted, RefusedCommand> {
        let now = self.now();
        let envelope = self.verify(session_id, text, now)?;
        let mut trace = Trace::new(envelope.command_id.clone(), envelope.tool.clone(), received);
        self.reach(&mut trace, Milestone::Verified);

        let spent = self.parts.nonces.spend(
            &envelope.nonce,
            &envelope.command_id,
            envelope.expires_at,
            now,
        );
        let spent = spent.await;
        self.note_store(!matches!(spent, Err(NonceError::Store(_))));
        if let Err(error) = spent {
            let is_known = matches!(&error,
                NonceError::Replay { command_id } if *command_id == envelope.command_id);
            return Err(
                RefusedCommand::of(envelope, error.code(), error.to_string()).about_known(is_known)
            );
        }
        self.reach(&mut trace, Milestone::NonceSpent);

        let tool = match self.is_wanted(&envelope) {
            Ok(tool) => tool,
            Err((code, message)) => return Err(RefusedCommand::of(envelope, code, message)),
        };
        let Ok(permit) = std::sync::Arc::clone(&self.room).try_acquire_owned() else {
            let message = format!(
                "{} commands are in flight already: send fewer at once, or later",
                self.parts.executor.capacity()
            );
            return Err(RefusedCommand::of(envelope, ErrorCode::SandboxNotReady, message));
        };
        let deadline_ms = deadline::deadline_ms(tool.deadline_ms, envelope.expires_at, now);

        let room = self.parts.journal.reserve().await;
        self.note_store(room.is_ok());
        let room = match room {
            Ok(room) => room,
            Err(error) => {
                let message = format!("its result could not be kept: {error}");
                return Err(RefusedCommand::of(envelope, ErrorCode::Internal, message));
            }
        };
        let accepted = self.parts.journal.accept(NewCommand {
            command_id: envelope.command_id.clone(),
            tenant_id: envelope.tenant_id.clone(),
            tool: envelope.tool.clone(),
            correlation_id: envelope.correlation_id.clone(),
            operator_id: envelope.operator.id.clone(),
            accepted_at: now,
        });
        let accepted = accepted.await;
        self.note_store(!matches!(accepted, Err(JournalError::Store(_))));
        if let Err(error) = accepted {
            let code = match error {
                JournalError::Store(_) => ErrorCode::Internal,
                JournalError::Duplicate { .. } => ErrorCode::NonceReplay,
            };
            return Err(RefusedCommand::of(envelope, code, error.to_string()));
        }
        self.reach(&mut trace, Milestone::Accepted);
        Ok(Admitted { envelope, tool, deadline_ms, permit, room, trace })
    }

    fn verify(
        &self,
        session_id: &str,
        text: &str,
        now: protocol::timestamp::Timestamp,
    ) -> Result<CommandEnvelope, RefusedCommand> {
        let keys = self.parts.keys.current().map_err(|error| RefusedCommand {
            code: ErrorCode::Internal,
            message: format!("no envelope can be verified: {error}"),
            command_id: None,
            envelope: None,
            is_known: false,
        })?;
        let endpoint = &self.parts.endpoint;
        let audience = Audience {
            endpoint_id: &endpoint.endpoint_id,
            tenant_id: &endpoint.tenant_id,
            session_id,
        };
        verify(text, &keys, &audience, now).map_err(RefusedCommand::from)
    }

    /// Whether this machine's owner, the image and the queue take the command.
    fn is_wanted(&self, envelope: &CommandEnvelope) -> Result<ToolFacts, (ErrorCode, String)> {
        self.takes_commands()?;
        let checked = self.parts.executor.check(&envelope.tool, &envelope.params);
        let tool = checked.map_err(|error| match error {
            CallError::InvalidParams { .. } => (ErrorCode::SchemaInvalid, error.to_string()),
            _ => (ErrorCode::ToolNotRegistered, error.to_string()),
        })?;
        let policy = self.parts.policy.current().map_err(|error| {
            (ErrorCode::PolicyDenied, format!("the local policy cannot be used: {error}"))
        })?;
        let request = Request {
            tool: &envelope.tool,
            track: tool.track,
            operator: &envelope.operator,
            now: self.now(),
        };
        policy.decide(&request).map_err(|message| (ErrorCode::PolicyDenied, message))?;
        Ok(tool)
    }

    /// Tells the caller and the audit log.
    pub(super) async fn refuse(&self, caller: &dyn Caller, refused: RefusedCommand) {
        self.parts.observer.refused(refused.code);
        warn!(code = refused.code.as_str(), command = ?refused.command_id, "{}", refused.message);
        self.audit_refusal(caller.session_id(), &refused);
        let command_id = match refused.command_id.filter(|_| !refused.is_known) {
            // A caller would take the answer for the end of the command that was taken before.
            Some(id) if self.is_known(&id).await => None,
            reportable => reportable,
        };
        let event = self.parts.error_event(
            command_id.as_deref(),
            caller.session_id(),
            refused.code,
            &refused.message,
        );
        // A caller that is gone misses it: the envelope is spent either way.
        let _ = caller.answer(Answer::Refused(event)).await;
    }

    fn audit_refusal(&self, session_id: &str, refused: &RefusedCommand) {
        let mut suppressed = 0;
        if refused.envelope.is_none() {
            // Whatever sits between relay and agent could fill the disk with these.
            let mut limiter = self.unsigned_refusals.lock().unwrap_or_else(PoisonError::into_inner);
            match limiter.take(Instant::now()) {
                Some(denied) => suppressed = denied,
                None => return,
            }
        }
        let mut payload = json!({"code": refused.code.as_str(), "message": refused.message});
        if suppressed > 0 {
            payload["not_audited_before"] = suppressed.into();
        }
        let envelope = refused.envelope.as_deref();
        self.parts.audit.append(AuditEntry {
            command_id: refused.command_id.clone(),
            session_id: Some(session_id.to_owned()),
            correlation_id: envelope.map(|e| e.correlation_id.clone()),
            operator_id: envelope.map(|e| e.operator.id.clone()),
            code: Some(refused.code.as_str().to_owned()),
            payload: payload.to_string().into_bytes(),
            ..self.parts.audit_entry(Channel::Endpoint, "CommandRefused")
        });
    }

    pub(super) fn reach(&self, trace: &mut Trace, milestone: Milestone) {
        trace.mark(milestone);
        self.parts.observer.reached(&trace.command_id, milestone);
    }

    /// Remembers whether the disk does what it should, for the agent's health.
    pub(super) fn note_store(&self, works: bool) {
        self.stores_work.store(works, Ordering::Relaxed);
    }
}

impl RefusedCommand {
    pub(super) fn of(envelope: CommandEnvelope, code: ErrorCode, message: String) -> Self {
        let command_id = Some(envelope.command_id.clone());
        Self { code, message, command_id, envelope: Some(Box::new(envelope)), is_known: false }
    }

    fn about_known(self, is_known: bool) -> Self {
        Self { is_known, ..self }
    }
}

impl From<Refusal> for RefusedCommand {
    fn from(refusal: Refusal) -> Self {
        Self {
            code: refusal.code,
            message: refusal.message,
            command_id: refusal.command_id,
            envelope: None,
            is_known: false,
        }
    }
}
