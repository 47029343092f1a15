//! The part of an agent that takes envelopes and gives results, with machines and stores. A probe is
//! its relay.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinHandle;

use super::machines::Machines;
use super::signer::{self, ENDPOINT, TENANT, failed};
use crate::ProbeError;
use brainstorm_agent::commands::milestone::NoObserver;
use brainstorm_agent::commands::policy::Policy;
use brainstorm_agent::commands::watched::Watched;
use brainstorm_agent::commands::{Commands, Endpoint, Parts};
use brainstorm_agent::degraded::DegradedMode;
use brainstorm_agent::evidence::{EvidenceStore, Retention};
use brainstorm_agent::relay::link::loopback::LoopbackSession;
use brainstorm_agent::relay::{Handler, RelayAdapter};
use brainstorm_agent::store::{AuditLog, Journal, NonceStore};
use protocol::message::DEFAULT_FRAME_BYTES;
use protocol::{KeyRing, Timestamp};

/// File with the journal, in the directory of an agent's stores.
pub const JOURNAL: &str = "journal.db";
const NONCES: usize = 1024;

/// An agent that takes commands.
pub struct Served {
    commands: Arc<Commands>,
    adapter: Arc<RelayAdapter>,
}

impl Served {
    /// Starts an agent with its stores in `directory`, where another agent may have left its own.
    pub async fn start(directory: &Path, machines: Machines) -> Result<Self, ProbeError> {
        let keys = directory.join("keys.toml");
        std::fs::write(&keys, signer::keys()?.to_toml())?;
        let evidence = directory.join("evidence");
        std::fs::create_dir_all(&evidence)?;
        let parts = Parts {
            endpoint: Endpoint { endpoint_id: ENDPOINT.to_owned(), tenant_id: TENANT.to_owned() },
            keys: Watched::required(keys, |text| {
                KeyRing::from_toml(text).map_err(|error| error.to_string())
            }),
            policy: Watched::optional(directory.join("policy.toml"), Policy::allow_all(), |text| {
                Policy::parse(text).map_err(|error| error.to_string())
            }),
            kill_switch: directory.join("kill"),
            nonces: NonceStore::open_anywhere(&directory.join("nonces.db"), NONCES)
                .map_err(failed)?,
            journal: Journal::open(&directory.join(JOURNAL)).map_err(failed)?,
            degraded: Arc::new(DegradedMode::open(directory)),
            audit: AuditLog::open(&directory.join("audit.db")).map_err(failed)?,
            evidence: EvidenceStore::new(evidence, Retention::default(), None),
            executor: Arc::new(machines),
            frame_bytes: DEFAULT_FRAME_BYTES,
            observer: Box::new(NoObserver),
            clock: Arc::new(Timestamp::now),
        };
        let commands = Commands::start(parts).await.map_err(failed)?;
        let adapter = RelayAdapter::new(Arc::clone(&commands));
        Ok(Self { commands, adapter })
    }

    /// Opens a session, which takes the place of the session before it.
    pub fn connect(&self, session: &str, patience: Duration) -> Relay {
        let end = LoopbackSession::open(session);
        self.adapter.connected(end.session().clone());
        Relay { end, patience, received: Vec::new() }
    }

    /// Lets the agent notice that a session is over.
    pub fn lose(&self, relay: Relay) {
        let Relay { end, .. } = relay;
        self.adapter.disconnected(end.session());
    }

    /// Sends an envelope.
    pub fn send(&self, relay: &Relay, text: String) -> JoinHandle<()> {
        let (adapter, session) = (Arc::clone(&self.adapter), relay.end.session().clone());
        tokio::spawn(async move { adapter.frame(session, text, Instant::now()).await })
    }

    /// Ends what runs and closes the stores.
    pub async fn end(self) {
        self.commands.drain(Duration::ZERO).await;
    }
}

/// The relay's end of a session.
pub struct Relay {
    end: LoopbackSession,
    patience: Duration,
    received: Vec<Value>,
}

impl Relay {
    /// Waits for the first frame that `wanted` accepts. Frames that came before count too.
    pub async fn wait_for(
        &mut self,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, ProbeError> {
        if let Some(found) = self.received.iter().find(|frame| wanted(frame)) {
            return Ok(found.clone());
        }
        let until = tokio::time::Instant::now() + self.patience;
        loop {
            let Ok(Some(text)) = tokio::time::timeout_at(until, self.end.hear()).await else {
                let types: Vec<_> = self.received.iter().map(|frame| &frame["type"]).collect();
                return Err(failed(format!("{what} did not come; what came: {types:?}")));
            };
            let frame: Value = serde_json::from_str(&text).map_err(failed)?;
            self.received.push(frame.clone());
            if wanted(&frame) {
                return Ok(frame);
            }
        }
    }

    /// Waits for the end of a command: its result, or the error in place of a result.
    pub async fn end_of(&mut self, command: &str) -> Result<Value, ProbeError> {
        self.wait_for("the end of a command", |frame| {
            frame["command_id"] == command
                && (frame["type"] == "CommandResult" || frame["type"] == "ErrorEvent")
        })
        .await
    }

    /// Waits until a command has its machine.
    pub async fn started(&mut self, command: &str) -> Result<(), ProbeError> {
        let about = |frame: &Value| frame["command_id"] == command;
        let first = self
            .wait_for("a command's start", |frame| about(frame) && frame["type"] != "CommandAck")
            .await?;
        if first["type"] == "ProgressEvent" {
            return Ok(());
        }
        Err(failed(format!("it did not start: {first}")))
    }

    /// Number of frames so far that `wanted` accepts.
    pub fn count(&self, wanted: impl Fn(&Value) -> bool) -> usize {
        self.received.iter().filter(|frame| wanted(frame)).count()
    }
}
