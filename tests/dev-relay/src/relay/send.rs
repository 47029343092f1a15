//! Commands on their way to endpoints.

use serde_json::{Value, json};

use super::DevRelay;
use crate::command::{CommandHandle, EventSender};
use crate::envelope::{Envelope, EnvelopeBuilder, EnvelopeError, Order};
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
    /// Its events go to whoever sent it first.
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

impl DevRelay {
    /// Signs a command for the endpoint's session and sends it.
    pub fn dispatch(
        &self,
        endpoint_id: &str,
        tool: &str,
        params: &Value,
        options: &DispatchOptions,
    ) -> Result<CommandHandle, DispatchError> {
        let session = self.find_session(endpoint_id)?;
        let envelope = builder(&self.shared, &session, tool, params, options).sign()?;
        send(&self.shared, &session, &envelope)
    }

    /// An envelope for the endpoint's session, to be changed and signed.
    pub fn make_envelope(
        &self,
        endpoint_id: &str,
        tool: &str,
        params: &Value,
    ) -> Result<EnvelopeBuilder, DispatchError> {
        let session = self.find_session(endpoint_id)?;
        Ok(builder(&self.shared, &session, tool, params, &DispatchOptions::default()))
    }

    /// Sends an envelope to the endpoint's session and follows its command.
    pub fn dispatch_envelope(
        &self,
        endpoint_id: &str,
        envelope: &Envelope,
    ) -> Result<CommandHandle, DispatchError> {
        send(&self.shared, &self.find_session(endpoint_id)?, envelope)
    }

    /// Sends a text frame and enters the commands it names.
    pub(super) fn send_frame(&self, endpoint_id: &str, text: String) -> Result<(), DispatchError> {
        let session = self.find_session(endpoint_id)?;
        self.shared.change(|state| {
            for command_id in commands_named(&text) {
                state.ledger.sent(command_id, endpoint_id, &session.info.session_id, None);
            }
        });
        if session.line.send_text(text) {
            Ok(())
        } else {
            Err(DispatchError::QueueFull(endpoint_id.to_owned()))
        }
    }

    pub(super) fn find_session(&self, endpoint_id: &str) -> Result<Session, DispatchError> {
        let state = self.shared.state();
        let session = state.sessions.get(endpoint_id).cloned();
        session.ok_or_else(|| DispatchError::Unreachable(endpoint_id.to_owned()))
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
    let order = Order {
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
    EnvelopeBuilder::new(&order, state.signing_key.clone())
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

/// Every `command_id` in a text that need not be JSON: an endpoint may answer by any of them.
fn commands_named(text: &str) -> impl Iterator<Item = &str> {
    text.split("\"command_id\"").skip(1).filter_map(|rest| {
        let value = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
        value.split('"').next()
    })
}

#[cfg(test)]
mod tests {
    use super::commands_named;

    #[test]
    fn commands_are_found_in_any_text() {
        let named = |text| commands_named(text).collect::<Vec<_>>();
        assert_eq!(named(r#"{"command_id":"a","x":{"command_id" : "b"}"#), ["a", "b"]);
        assert_eq!(named(r#"{"command_id":7,"command_id"#), Vec::<&str>::new());
        assert_eq!(named("junk"), Vec::<&str>::new());
    }
}
