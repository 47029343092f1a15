//! From envelope to result: the one place where protocol, store and sandbox meet.
//!
//! The way of a command, and what is true at each step:
//!
//! 1. the envelope is verified; nothing is spent before its signature holds;
//! 2. its nonce is on disk, so that no copy of the envelope is accepted again;
//! 3. kill switch, local policy, tool and parameters, and room in the queue: a refusal here is
//!    final for this envelope, because its nonce is spent;
//! 4. the journal has the command on disk; from here on it is answered for, also by the next
//!    process if this one dies;
//! 5. the relay is sent the acknowledgement; a command whose acknowledgement cannot be sent is not
//!    run;
//! 6. the tool runs on a clean machine, which is reset and verified;
//! 7. the result is on disk, then sent, and sent again in later sessions until the relay has shown
//!    that it read it.
//!
//! A process that finds commands of its predecessor runs none of them: it cannot know how far they
//! came. It says so to the relay.

mod admission;
mod command;
pub mod deadline;
mod degraded;
mod delivery;
pub mod executor;
pub mod milestone;
mod outcome;
pub mod policy;
mod quota;
mod recovery;
pub mod watched;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::degraded::DegradedMode;
use crate::evidence::EvidenceStore;
use crate::relay::{Handler, Session};
use crate::store::{AuditEntry, AuditLog, Channel, Journal, NonceStore};
use delivery::Deliveries;
use executor::Executor;
use milestone::Observer;
use policy::Policy;
use protocol::code::ErrorCode;
use protocol::keyring::KeyRing;
use protocol::message::WireState;
use protocol::message::{AgentHealth, ErrorEvent, Frame, NO_COMMAND};
use protocol::timestamp::Timestamp;
use quota::Quota;
use watched::Watched;

pub use degraded::{Clearance, NotCleared};
pub use recovery::RecoveryError;

/// Tells the time. The system's clock, outside of tests.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Who this endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its id.
    pub endpoint_id: String,
    /// The tenant it is enrolled with.
    pub tenant_id: String,
}

/// What the dispatcher works with.
pub struct Parts<E> {
    /// Who this endpoint is.
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
    /// What happened, for those who ask later.
    pub audit: AuditLog,
    /// What commands gave, with what vouches for it.
    pub evidence: EvidenceStore,
    /// Runs the commands.
    pub executor: Arc<E>,
    /// Watches them.
    pub observer: Box<dyn Observer>,
    /// Tells the time.
    pub clock: Clock,
}

impl<E> Parts<E> {
    /// An entry of this endpoint, now.
    fn audit_entry(&self, channel: Channel, kind: &str) -> AuditEntry {
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

    /// An error event as text.
    fn error_event(
        &self,
        command_id: Option<&str>,
        session_id: &str,
        code: ErrorCode,
        message: &str,
    ) -> String {
        ErrorEvent {
            command_id: command_id.unwrap_or(NO_COMMAND).to_owned(),
            endpoint_id: self.endpoint.endpoint_id.clone(),
            session_id: session_id.to_owned(),
            code,
            message: message.to_owned(),
            ts: (self.clock)(),
        }
        .to_text()
    }
}

/// Takes envelopes from sessions and answers for what they order.
pub struct Dispatcher<E> {
    me: Weak<Self>,
    parts: Parts<E>,
    session: Mutex<Option<Session>>,
    deliveries: Deliveries,
    /// One permit for each command that may be in flight.
    room: Arc<Semaphore>,
    /// How many refusals of envelopes that nobody has signed may be audited.
    unsigned_refusals: Mutex<Quota>,
    accepting: AtomicBool,
    stores_work: AtomicBool,
    /// Whose turn it is to tell of incidents.
    telling: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
}

impl<E: Executor> Dispatcher<E> {
    /// A dispatcher that accepts commands. What an earlier process left behind is answered for
    /// first: results that say so are journalled, and go out with the first session.
    pub async fn start(parts: Parts<E>) -> Result<Arc<Self>, RecoveryError> {
        recovery::recover(&parts).await?;
        if let Some(record) = parts.degraded.current() {
            parts.executor.halt(&record.reason);
        }
        let room = Arc::new(Semaphore::new(parts.executor.capacity()));
        Ok(Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            parts,
            session: Mutex::default(),
            deliveries: Deliveries::default(),
            room,
            unsigned_refusals: Mutex::new(Quota::new(100, 10)),
            accepting: AtomicBool::new(true),
            stores_work: AtomicBool::new(true),
            telling: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Who this endpoint is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.parts.endpoint
    }

    /// What runs the commands.
    pub fn executor(&self) -> &Arc<E> {
        &self.parts.executor
    }

    /// Commands in flight.
    pub fn in_flight(&self) -> usize {
        self.parts.executor.capacity().saturating_sub(self.room.available_permits())
    }

    /// The audit log.
    pub fn audit(&self) -> &AuditLog {
        &self.parts.audit
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.parts.journal
    }

    /// Spent nonces.
    pub fn nonces(&self) -> &NonceStore {
        &self.parts.nonces
    }

    /// Removes evidence that is too old or too much, but none whose result is owed.
    pub async fn sweep_evidence(&self) {
        match self.parts.journal.owed().await {
            Ok(owed) => self.parts.evidence.sweep(owed).await,
            Err(error) => warn!(%error, "old evidence stays: nobody knows what is owed"),
        }
    }

    /// Reads keys and policy again, however recently that was done.
    pub fn reload(&self) {
        self.parts.keys.expire();
        self.parts.policy.expire();
    }

    /// Why no command would run now, whatever it is. `None` when there is no such reason.
    pub fn trouble(&self) -> Option<String> {
        if self.kill_switch_is_on() {
            return Some(format!("the kill switch is on: {}", self.parts.kill_switch.display()));
        }
        if let Some(record) = self.parts.degraded.current() {
            return Some(format!(
                "{}; see `brainstorm-agent explain`, then `brainstorm-agent clear`",
                record.summary()
            ));
        }
        if !self.stores_work.load(Ordering::Relaxed) {
            return Some("a store on disk failed; see the log".to_owned());
        }
        let keys = self.parts.keys.current().err();
        let policy = self.parts.policy.current().err();
        keys.or(policy).map(|error| error.to_string())
    }

    fn kill_switch_is_on(&self) -> bool {
        // What cannot be looked at counts as there.
        self.parts.kill_switch.try_exists().unwrap_or(true)
    }

    /// Stops accepting commands, and gives those in flight that long to end by themselves. Then
    /// their machines are taken away; their results say so. When this returns, every command is
    /// journalled with its result, and those that could be sent are sent.
    pub async fn drain(&self, patience: Duration) {
        self.accepting.store(false, Ordering::SeqCst);
        self.tasks.close();
        if tokio::time::timeout(patience, self.tasks.wait()).await.is_err() {
            warn!(in_flight = self.in_flight(), "commands are still running: they are ended");
        }
        let executor = Arc::clone(&self.parts.executor);
        let ended = tokio::task::spawn_blocking(move || executor.shut_down());
        if let Err(error) = ended.await {
            warn!(%error, "ending the machines failed");
        }
        if tokio::time::timeout(Duration::from_secs(5), self.tasks.wait()).await.is_err() {
            warn!("some results are journalled but not sent; they go out after the next start");
        }
    }

    /// Ends what runs while the kill switch is on, as soon as it is switched on. Runs for ever.
    pub async fn mind_kill_switch(&self) {
        let mut was_on = false;
        loop {
            let is_on = self.kill_switch_is_on();
            if is_on && !was_on {
                warn!(file = %self.parts.kill_switch.display(), "the kill switch is on");
                let executor = Arc::clone(&self.parts.executor);
                let _ = tokio::task::spawn_blocking(move || executor.abort()).await;
            } else if was_on && !is_on {
                info!("the kill switch is off");
            }
            was_on = is_on;
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Notes something that concerns no command.
    pub fn note_in_audit(&self, kind: &str) {
        self.parts.audit.append(self.parts.audit_entry(Channel::Endpoint, kind));
    }

    fn now(&self) -> Timestamp {
        (self.parts.clock)()
    }

    fn session(&self) -> Option<Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<E: Executor> Handler for Dispatcher<E> {
    fn connected(&self, session: Session) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
        let Some(dispatcher) = self.me.upgrade() else { return };
        tokio::spawn(async move {
            dispatcher.tell_if_degraded().await;
            dispatcher.send_what_is_left(&session).await;
        });
    }

    async fn frame(self: &Arc<Self>, session: Session, text: String, received: Instant) {
        self.take(session, text, received).await;
    }

    async fn was_taken(&self, command_id: &str) -> bool {
        matches!(self.parts.journal.find(command_id).await, Ok(Some(_)))
    }

    fn disconnected(&self, session: &Session) {
        let mut current = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.id == session.id) {
            *current = None;
        }
    }

    fn health(&self) -> (AgentHealth, WireState) {
        if self.parts.degraded.current().is_some() {
            return (AgentHealth::Degraded, WireState::Failed);
        }
        let state = self.parts.executor.state();
        let health = match self.trouble() {
            None if state != WireState::Failed => AgentHealth::Ok,
            _ => AgentHealth::Degraded,
        };
        (health, state)
    }
}
