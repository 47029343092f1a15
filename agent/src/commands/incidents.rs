//! What is done about machines that could not be shown to be golden: the executor is halted, the audit
//! log and the callers are told, and no command is taken until a person has cleared degraded mode.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use thiserror::Error;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::Commands;
use super::answers::Alarm;
use crate::degraded::{ClearError, DegradedMode, IncidentRecord};
use crate::store::{AuditEntry, Channel, StoreError};
use protocol::code::ErrorCode;
use protocol::message::ErrorEvent;
use sandbox::{Cause, ForensicDump, Incident, PartialOutput, SandboxError};
use sandbox::{Executed, Failure};

/// Why the agent stays degraded.
#[derive(Debug, Error)]
pub enum NotCleared {
    /// The reason could not be written down, so nothing was changed.
    #[error("the audit log does not take the reason, so the agent stays degraded: {0}")]
    Audit(#[source] StoreError),
    /// The latch stays.
    #[error(transparent)]
    Latch(#[from] ClearError),
}

/// Who clears degraded mode, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Clearance {
    /// Why it may go on.
    pub reason: String,
    /// The person.
    pub operator: String,
}

impl Clearance {
    /// Kind of the audit entry.
    pub const KIND: &str = "DegradedCleared";

    /// The payload of the audit entry.
    pub fn payload(&self, cleared: &IncidentRecord) -> Vec<u8> {
        json!({"reason": self.reason, "operator": self.operator, "cleared": cleared})
            .to_string()
            .into_bytes()
    }
}

/// How long results wait for an alarm that was raised before them.
const ALARM_FIRST: Duration = Duration::from_millis(250);

impl Commands {
    /// Whether commands are refused, and since when and why.
    pub fn degraded(&self) -> &Arc<DegradedMode> {
        &self.parts.degraded
    }

    /// What a command is refused with while the agent is degraded.
    pub(super) fn refusal_while_degraded(&self) -> Option<String> {
        let record = self.parts.degraded.current()?;
        Some(format!(
            "{}; an operator has to look at it and clear it on this endpoint",
            record.summary()
        ))
    }

    /// In place of running a command.
    pub(super) fn not_run_while_degraded(message: String) -> Executed {
        Executed::refused(Failure {
            code: ErrorCode::IntegrityMonitorTripped.as_str(),
            message,
            partial: PartialOutput::default(),
        })
    }

    /// Halts when the machine of a command is not what it should be. Degraded mode is on disk, and
    /// audit log and callers have been told, when this returns.
    pub(super) async fn halt_if_needed(&self, command_id: &str, executed: &Executed) {
        if let Some(incident) = incident(command_id, executed) {
            let degraded = Arc::clone(&self.parts.degraded);
            let written = tokio::task::spawn_blocking(move || degraded.halt(&incident));
            if let Err(error) = written.await {
                error!(%error, "degraded mode was not entered as it should be");
            }
        }
        self.report_incidents().await;
    }

    /// Stops the machines, and tells of incidents outside of commands. Runs for ever.
    pub async fn watch_incidents(&self) {
        loop {
            let news = self.parts.degraded.wait_for_news();
            // From time to time without news: a latch that is not on disk is written then.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(5), news).await;
            self.report_incidents().await;
        }
    }

    /// Reports the incidents that were not reported yet. One task at a time does this, so that every
    /// incident known before the call is reported when the call returns.
    async fn report_incidents(&self) {
        let mut raised = JoinSet::new();
        let turn = self.reporting.lock().await;
        let degraded = Arc::clone(&self.parts.degraded);
        // It may write the latch once more.
        let news = tokio::task::spawn_blocking(move || degraded.take_news()).await;
        for record in news.unwrap_or_default() {
            self.parts.executor.halt(&record.reason);
            let entry = AuditEntry {
                command_id: record.command_id.clone(),
                code: Some(record.code.clone()),
                payload: record.to_bytes(),
                ..self.parts.audit_entry(Channel::Endpoint, IncidentRecord::KIND)
            };
            if let Err(error) = self.parts.audit.append_durable(entry).await {
                error!(%error, "an incident is not in the audit log");
            }
            let alarm = alarm(&record.code, &record);
            for listener in self.listeners() {
                let alarm = alarm.clone();
                raised.spawn(async move { listener.raise(&alarm).await });
            }
        }
        drop(turn);
        // An alarm goes before the result that raised it, where its listener takes it at all.
        let all = async { while raised.join_next().await.is_some() {} };
        if tokio::time::timeout(ALARM_FIRST, all).await.is_err() {
            warn!("an alarm is not with its listener yet");
            raised.detach_all();
        }
    }

    /// What a caller that has just connected is told. `None` when the agent is not degraded.
    pub fn alarm(&self) -> Option<Alarm> {
        let record = self.parts.degraded.current()?;
        Some(alarm(ErrorCode::IntegrityMonitorTripped.as_str(), &record))
    }

    /// An alarm as the protocol's error event. It names no command: an event that did would be taken
    /// for the command's result, and the result that says what happened for a late one.
    pub fn alarm_event(&self, alarm: &Alarm, session_id: &str) -> ErrorEvent {
        self.parts.error_event(None, session_id, alarm.code, &alarm.message)
    }

    /// Leaves degraded mode: the reason is in the audit log before anything else changes, and new
    /// machines serve from then on. `None` when the agent is not degraded.
    pub async fn clear(
        &self,
        clearance: &Clearance,
    ) -> Result<Option<Arc<IncidentRecord>>, NotCleared> {
        let Some(record) = self.parts.degraded.current() else { return Ok(None) };
        let entry = AuditEntry {
            command_id: record.command_id.clone(),
            operator_id: Some(clearance.operator.clone()),
            code: Some(record.code.clone()),
            payload: clearance.payload(&record),
            ..self.parts.audit_entry(Channel::Endpoint, Clearance::KIND)
        };
        self.parts.audit.append_durable(entry).await.map_err(NotCleared::Audit)?;
        let (degraded, seen) = (Arc::clone(&self.parts.degraded), Arc::clone(&record));
        let cleared = tokio::task::spawn_blocking(move || degraded.clear(&seen)).await;
        cleared.unwrap_or(Err(ClearError::Changed))?;
        warn!(operator = clearance.operator, reason = clearance.reason, "cleared: serving again");
        let executor = Arc::clone(&self.parts.executor);
        let resumed = tokio::task::spawn_blocking(move || executor.resume());
        if resumed.await.is_ok() {
            info!("new machines are made");
        }
        Ok(Some(record))
    }
}

/// The alarm that an incident raises.
fn alarm(code: &str, record: &IncidentRecord) -> Alarm {
    let of = record.command_id.as_deref().map_or_else(String::new, |id| format!("command {id}: "));
    let code = match code {
        code if code == ErrorCode::ResetVerificationTimeout.as_str() => {
            ErrorCode::ResetVerificationTimeout
        }
        code if code == ErrorCode::ResetFailed.as_str() => ErrorCode::ResetFailed,
        code if code == ErrorCode::ResetVerificationDivergence.as_str() => {
            ErrorCode::ResetVerificationDivergence
        }
        _ => ErrorCode::IntegrityMonitorTripped,
    };
    Alarm { code, message: format!("{of}{}", record.reason) }
}

/// What a command's machine has come to, when it must not be used again.
fn incident(command_id: &str, executed: &Executed) -> Option<Incident> {
    let cause = match executed.reset.as_ref()? {
        Ok(verification) if verification.passed() => return None,
        Ok(verification) => Cause::Verification(Box::new(verification.clone())),
        // The owner of the endpoint has ended the machine.
        Err(SandboxError::TakenAway { .. }) => return None,
        Err(error) => Cause::ResetFailed(error.to_string()),
    };
    Some(Incident {
        at: std::time::SystemTime::now(),
        command_id: Some(command_id.to_owned()),
        cause,
        dump: ForensicDump::default(),
    })
}
