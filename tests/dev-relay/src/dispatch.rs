//! Builds the envelopes of commands and sends them to endpoints' sessions.

use serde_json::{Value, json};

use crate::command::{CommandHandle, EventSender};
use crate::envelope::{Draft, Envelope, EnvelopeBuilder, EnvelopeError};
use crate::shared::{Session, Shared};

/// Why a command cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// `RELAY_ENDPOINT_UNREACHABLE`.
    #[error("endpoint {0} is not connected")]
    Unreachable(String),
    /// The endpoint has not taken what was sent before.
    #[error("endpoint {0} does not read: too many frames wait for it")]
    QueueFull(String),
    /// Nothing to follow the command by.
    #[error("the envelope has no command_id; send it raw")]
    NoCommand,
    /// Its events go to the caller that sent it first.
    #[error("command {0} was sent before; send it again raw")]
    SentBefore(String),
    /// The parameters have no canonical form.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
}

/// What goes into an envelope besides tool and parameters.
#[derive(Debug, Clone)]
pub struct DispatchOptions {
    /// Carried to the tool; 1 to 256 printable characters.
    pub correlation_id: String,
    /// The operator as the envelope shows it.
    pub operator: Value,
}

impl Default for DispatchOptions {
    fn default() -> Self {
        let operator = json!({
            "kind": "human",
            "id": "operator@local",
            "originating_human_id": "operator@local",
        });
        Self { correlation_id: format!("corr-{}", crate::random::uuid()), operator }
    }
}

/// A good envelope for a session.
pub(crate) fn builder(
    shared: &Shared,
    session: &Session,
    tool: &str,
    params: &Value,
    options: &DispatchOptions,
) -> EnvelopeBuilder {
    let state = shared.state();
    let draft = Draft {
        endpoint_id: &session.info.endpoint_id,
        tenant_id: &shared.config.tenant_id,
        session_id: &session.info.session_id,
        signing_key_id: &state.signing_key_id,
        correlation_id: &options.correlation_id,
        operator: &options.operator,
        tool,
        params,
        now: state.now(),
    };
    EnvelopeBuilder::new(&draft, state.signing_key.clone())
}

/// Arms the timer, then queues the envelope.
pub(crate) fn send(
    shared: &std::sync::Arc<Shared>,
    session: &Session,
    envelope: &Envelope,
) -> Result<CommandHandle, DispatchError> {
    let command_id = envelope.command_id().ok_or(DispatchError::NoCommand)?;
    let text = envelope.text();
    let (events, receiver) = EventSender::new();
    if !shared.arm(&command_id, &session.info, events) {
        return Err(DispatchError::SentBefore(command_id));
    }
    if !session.line.send_text(text.clone()) {
        return Err(DispatchError::QueueFull(session.info.endpoint_id.clone()));
    }
    let session_id = session.info.session_id.clone();
    Ok(CommandHandle::new(command_id, session_id, text, receiver))
}
