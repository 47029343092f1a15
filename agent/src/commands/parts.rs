//! What commands work with, and what they write about themselves.

use std::path::PathBuf;
use std::sync::Arc;

use super::cut::cut_middle;
use super::executor::Executor;
use super::milestone::Observer;
use super::policy::Policy;
use super::watched::Watched;
use crate::degraded::DegradedMode;
use crate::evidence::EvidenceStore;
use crate::store::{AuditEntry, AuditLog, Channel, Journal, NonceStore};
use protocol::code::ErrorCode;
use protocol::keyring::KeyRing;
use protocol::message::{ErrorEvent, NO_COMMAND};
use protocol::timestamp::Timestamp;

/// Longest message of an error event, in bytes of its JSON. It repeats text from elsewhere.
const MAX_MESSAGE: usize = 4 << 10;

/// Tells the time. Outside of tests it is the host's clock.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The identity of this endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The endpoint's id.
    pub endpoint_id: String,
    /// The tenant the endpoint is enrolled with.
    pub tenant_id: String,
}

/// What commands work with.
pub struct Parts {
    /// The identity of this endpoint.
    pub endpoint: Endpoint,
    /// Keys that may sign envelopes.
    pub keys: Watched<KeyRing>,
    /// What the owner of this machine allows.
    pub policy: Watched<Policy>,
    /// While this file exists, no command runs.
    pub kill_switch: PathBuf,
    /// Spent nonces.
    pub nonces: NonceStore,
    /// Commands and their results.
    pub journal: Journal,
    /// Whether commands are refused because of what was found in a machine.
    pub degraded: Arc<DegradedMode>,
    /// The log of what happened.
    pub audit: AuditLog,
    /// The output of commands, with what vouches for it.
    pub evidence: EvidenceStore,
    /// Runs the commands.
    pub executor: Arc<dyn Executor>,
    /// Longest frame that a caller takes, in bytes of its JSON. Results are cut to it.
    pub frame_bytes: usize,
    /// Watches the commands.
    pub observer: Box<dyn Observer>,
    /// Tells the time.
    pub clock: Clock,
}

impl Parts {
    /// An audit entry of this endpoint with the present time.
    pub(super) fn audit_entry(&self, channel: Channel, kind: &str) -> AuditEntry {
        AuditEntry {
            at: (self.clock)(),
            channel_of_origin: channel,
            kind: kind.to_owned(),
            command_id: None,
            tenant_id: Some(self.endpoint.tenant_id.clone()),
            endpoint_id: Some(self.endpoint.endpoint_id.clone()),
            session_id: None,
            correlation_id: None,
            operator_id: None,
            lifecycle_state: None,
            code: None,
            payload: Vec::new(),
        }
    }

    /// An error event of this endpoint with the present time.
    pub(super) fn error_event(
        &self,
        command_id: Option<&str>,
        session_id: &str,
        code: ErrorCode,
        message: &str,
    ) -> ErrorEvent {
        ErrorEvent {
            command_id: command_id.unwrap_or(NO_COMMAND).to_owned(),
            endpoint_id: self.endpoint.endpoint_id.clone(),
            session_id: session_id.to_owned(),
            code,
            message: cut_middle(message.to_owned(), MAX_MESSAGE),
            ts: (self.clock)(),
        }
    }
}
