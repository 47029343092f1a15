//! What the agent says about itself.

use std::sync::Arc;
use std::time::Instant;

use guest::evidence::format_sha256;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::clearing::ClearAnswer;
use super::metrics::{Metrics, Recent, StateLabel};
use crate::commands::{Clearance, Commands};
use crate::confine::InForce;
use crate::degraded::IncidentRecord;
use crate::relay::LinkStatus;
use crate::store::{AuditHead, JournalCounts};
use protocol::Timestamp;
use protocol::message::AgentHealth;
use protocol::message::WireState;
use sandbox::pool::PoolMetrics;
use sandbox::verify::Finding;

/// What the agent says about itself.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Version of the agent.
    pub version: &'static str,
    /// Process id of the agent.
    pub pid: u32,
    /// For how long it has been serving.
    pub uptime_s: u64,
    /// This endpoint.
    pub endpoint_id: String,
    /// The tenant it is enrolled with.
    pub tenant_id: String,
    /// SHA-256 of its public key.
    pub key_fingerprint: String,
    /// The relay.
    pub relay: String,
    /// The connection to it.
    pub link: LinkReport,
    /// Whether it takes commands.
    pub agent_health: AgentHealth,
    /// Why it takes none.
    pub trouble: Option<String>,
    /// What was found in a machine, when that is why it takes none.
    pub degraded: Option<Degraded>,
    /// What the process has given up; `None` when nothing.
    pub confinement: Option<InForce>,
    /// What the relay is told about the machines.
    pub sandbox_state: WireState,
    /// Commands in flight.
    pub in_flight: usize,
    /// Most commands in flight.
    pub capacity: usize,
    /// The pool, if there is one.
    pub pool: Option<PoolMetrics>,
    /// Commands that completed since the start.
    pub completed: u64,
    /// Commands that failed since the start.
    pub failed: u64,
    /// Times of the latest commands.
    pub recent: Recent,
    /// Nonces that are remembered.
    pub live_nonces: u64,
    /// Commands in the journal.
    pub journal: JournalCounts,
    /// Last entry of the audit log.
    pub audit_head: AuditHead,
}

/// What was found in a machine. All of it is in the state directory's `degraded.json`.
#[derive(Debug, Serialize)]
pub struct Degraded {
    /// When.
    pub since: Timestamp,
    /// The protocol's code.
    pub code: String,
    /// In words.
    pub why: String,
    /// The command the machine ran last.
    pub command_id: Option<String>,
    /// What was not as it was.
    pub findings: Vec<Finding>,
    /// What was saved, from the state directory.
    pub bundle: Option<String>,
    /// Incidents since.
    pub further_incidents: u64,
}

impl Degraded {
    fn of(record: &IncidentRecord) -> Self {
        let record = record.clone();
        Self {
            since: record.since,
            code: record.code,
            why: record.reason,
            command_id: record.command_id,
            findings: record.findings,
            bundle: record.bundle,
            further_incidents: record.further_incidents,
        }
    }
}

/// The connection to the relay.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LinkReport {
    /// `connecting`, `connected`, `waiting`, `replaced` or `stopped`.
    pub state: &'static str,
    /// The session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Since when there is a session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When the next attempt is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Why there is no session, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl LinkReport {
    fn of(status: &LinkStatus) -> Self {
        match status {
            LinkStatus::Connecting => Self { state: "connecting", ..Self::default() },
            LinkStatus::Connected { since, session } => Self {
                state: "connected",
                session: Some(session.to_string()),
                since: Some(*since),
                ..Self::default()
            },
            LinkStatus::Waiting { until, reason, .. } => {
                let (until, reason) = (Some(*until), Some(reason.to_string()));
                Self { state: "waiting", until, reason, ..Self::default() }
            }
            LinkStatus::Replaced { until, reason } => {
                let (until, reason) = (Some(*until), Some(reason.to_string()));
                Self { state: "replaced", until, reason, ..Self::default() }
            }
            LinkStatus::Stopped => Self { state: "stopped", ..Self::default() },
        }
    }
}

/// Answers questions about the agent, from all of its parts.
pub(super) struct StatusSource {
    pub begun: Instant,
    pub relay: String,
    pub public_key: [u8; 32],
    pub commands: Arc<Commands>,
    pub link: watch::Receiver<LinkStatus>,
    pub metrics: Arc<Metrics>,
    pub confinement: Option<InForce>,
}

impl StatusSource {
    /// The status as it is now.
    pub fn status(&self) -> Status {
        let commands = &self.commands;
        let (agent_health, sandbox_state) = commands.health();
        let (completed, failed) = self.metrics.counts();
        let endpoint = commands.endpoint();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            uptime_s: self.begun.elapsed().as_secs(),
            endpoint_id: endpoint.endpoint_id.clone(),
            tenant_id: endpoint.tenant_id.clone(),
            key_fingerprint: format_sha256(&Sha256::digest(self.public_key).into()),
            relay: self.relay.clone(),
            link: LinkReport::of(&self.link.borrow()),
            agent_health,
            trouble: commands.trouble(),
            degraded: commands.degraded().current().map(|record| Degraded::of(&record)),
            confinement: self.confinement.clone(),
            sandbox_state,
            in_flight: commands.in_flight(),
            capacity: commands.executor().capacity(),
            pool: commands.executor().pool_metrics(),
            completed,
            failed,
            recent: self.metrics.recent(),
            live_nonces: commands.nonces().stored(),
            journal: commands.journal().counts(),
            audit_head: commands.audit().head(),
        }
    }

    /// The metrics as they are now, in Prometheus's text format.
    pub fn metrics(&self) -> String {
        let status = self.status();
        let gauges = self.metrics.gauges();
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        gauges.in_flight.set(number(status.in_flight));
        gauges.connected.set((status.link.state == "connected").into());
        gauges.healthy.set((status.agent_health == AgentHealth::Ok).into());
        gauges.nonces.set(i64::try_from(status.live_nonces).unwrap_or(i64::MAX));
        if let Some(pool) = status.pool {
            let machines = pool.machines;
            let counts = [
                ("clean", machines.clean),
                ("busy", machines.busy),
                ("resetting", machines.resetting),
                ("ending", machines.ending),
                ("gone", machines.gone),
            ];
            for (state, count) in counts {
                gauges.machines.get_or_create(&StateLabel { state }).set(number(count));
            }
            gauges.queued.set(number(pool.queued));
        }
        self.metrics.encode()
    }

    /// Has keys and policy read again.
    pub fn reload(&self) {
        self.commands.reload();
    }

    /// Leaves degraded mode.
    pub async fn clear(&self, clearance: Clearance) -> ClearAnswer {
        ClearAnswer::of(Arc::clone(&self.commands), clearance).await
    }
}
