//! The relay's methods that send commands to endpoints.

use serde_json::Value;

use super::DevRelay;
use crate::command::CommandHandle;
use crate::dispatch::{DispatchError, DispatchOptions, builder, send};
use crate::envelope::{Envelope, EnvelopeBuilder};
use crate::shared::Session;

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
