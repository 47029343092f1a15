//! May this command begin now? Asked at the moment when a machine is taken for it: a command may have
//! waited for minutes since it was admitted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use protocol::code::ErrorCode;
use protocol::envelope::CommandEnvelope;
use sandbox::pool::Refused;

use super::Commands;
use super::executor::{MayBegin, ToolFacts};
use super::policy::Request;

impl Commands {
    /// The question, for whoever takes the machine. `on_begin` is called when the answer is yes.
    pub(super) fn gate(
        self: &Arc<Self>,
        envelope: &Arc<CommandEnvelope>,
        tool: ToolFacts,
        on_begin: impl FnOnce() + Send + 'static,
    ) -> MayBegin {
        let (commands, envelope) = (Arc::clone(self), Arc::clone(envelope));
        Box::new(move || match commands.may_begin(&envelope, tool) {
            Ok(()) => {
                on_begin();
                Ok(())
            }
            Err((code, message)) => Err(Refused { code: code.as_str(), message }),
        })
    }

    /// Whether the agent, this machine's owner and the tenant's keys still want the command. In the order
    /// of what is true of all commands, then of this one.
    pub(super) fn may_begin(
        &self,
        envelope: &CommandEnvelope,
        tool: ToolFacts,
    ) -> Result<(), (ErrorCode, String)> {
        self.takes_commands()?;
        let keys = self.parts.keys.current().map_err(|error| {
            (ErrorCode::Internal, format!("the command's key cannot be looked up: {error}"))
        })?;
        let now = self.now();
        if let Err(problem) = keys.find(&envelope.signing_key_id, now) {
            let message = format!("the key {}: {problem}", envelope.signing_key_id);
            return Err((ErrorCode::SignatureInvalid, message));
        }
        let policy = self.parts.policy.current().map_err(|error| {
            (ErrorCode::PolicyDenied, format!("the local policy cannot be used: {error}"))
        })?;
        let request =
            Request { tool: &envelope.tool, track: tool.track, operator: &envelope.operator, now };
        policy.decide(&request).map_err(|message| (ErrorCode::PolicyDenied, message))
    }

    /// Whether the agent begins commands at all.
    pub(super) fn takes_commands(&self) -> Result<(), (ErrorCode, String)> {
        if !self.accepting.load(Ordering::SeqCst) {
            let message = "the agent is stopping: send the command again later";
            return Err((ErrorCode::SandboxNotReady, message.to_owned()));
        }
        if let Some(message) = self.refusal_while_degraded() {
            return Err((ErrorCode::IntegrityMonitorTripped, message));
        }
        if self.kill_switch_is_on() {
            let message = "the kill switch of this endpoint is on";
            return Err((ErrorCode::PolicyDenied, message.to_owned()));
        }
        Ok(())
    }
}
