//! From envelope to result: the one place where protocol, store and sandbox meet.
//!
//! An envelope comes from a [`Caller`], which also takes the answers. Which way it came, and over
//! which connection, is the caller's business: see `relay::adapter` for the one way there is today.
//!
//! The way of a command, and what is true at each step:
//!
//! 1. the envelope is verified; nothing is spent before its signature holds;
//! 2. its nonce is on disk, so that no copy of the envelope is accepted again;
//! 3. kill switch, local policy, tool and parameters, and room in the queue: a refusal here is
//!    final for this envelope, because its nonce is spent;
//! 4. the journal has the command on disk; from here on it is answered for, also by the next
//!    process if this one dies;
//! 5. the acknowledgement is written to the caller; a command whose acknowledgement cannot be written
//!    is not run;
//! 6. a clean machine is taken for it, if kill switch, policy, keys and degraded mode still let it begin;
//!    the tool runs there, and the machine is reset and verified;
//! 7. the result is on disk, then delivered, and owed until the caller has shown that it read it. A
//!    result that the disk does not take is delivered all the same, and offered to the disk until it
//!    does.
//!
//! A process that finds commands of its predecessor runs none of them: it cannot know how far they
//! came. It owes their callers a result that says so.

mod admission;
pub mod answers;
mod cut;
pub mod deadline;
mod delivery;
pub mod executor;
mod gate;
mod incidents;
pub mod milestone;
mod outcome;
mod owed;
mod parts;
pub mod policy;
mod rate_limiter;
mod recovery;
mod run;
pub mod watched;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::store::{AuditLog, Channel, Journal, NonceStore};
use answers::AlarmListener;
use executor::Executor;
use protocol::message::{AgentHealth, WireState};
use protocol::timestamp::Timestamp;
use rate_limiter::RateLimiter;

pub use answers::{Answer, Caller, Undelivered};
pub use incidents::{Clearance, NotCleared};
pub use owed::Owed;
pub use parts::{Clock, Endpoint, Parts};
pub use recovery::RecoveryError;

/// Takes envelopes from callers and answers for what they order.
pub struct Commands {
    parts: Parts,
    /// Whom alarms are passed on to.
    listeners: Mutex<Vec<Weak<dyn AlarmListener>>>,
    /// One permit for each command that may be in flight.
    room: Arc<Semaphore>,
    /// How often the refusal of an envelope without a good signature may be audited.
    unsigned_refusals: Mutex<RateLimiter>,
    accepting: AtomicBool,
    stores_work: AtomicBool,
    /// Held while incidents are reported.
    reporting: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
}

impl Commands {
    /// Begins to accept commands. What an earlier process left behind is answered for first: results
    /// that say so are journalled, and owed from then on.
    ///
    /// # Errors
    ///
    /// The journal does not take those results.
    pub async fn start(parts: Parts) -> Result<Arc<Self>, RecoveryError> {
        recovery::recover(&parts).await?;
        if let Some(record) = parts.degraded.current() {
            parts.executor.halt(&record.reason);
        }
        let room = Arc::new(Semaphore::new(parts.executor.capacity()));
        Ok(Arc::new(Self {
            parts,
            listeners: Mutex::default(),
            room,
            unsigned_refusals: Mutex::new(RateLimiter::new(100, 10)),
            accepting: AtomicBool::new(true),
            stores_work: AtomicBool::new(true),
            reporting: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Who this endpoint is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.parts.endpoint
    }

    /// What runs the commands.
    pub fn executor(&self) -> &Arc<dyn Executor> {
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
            Err(error) => warn!(%error, "old evidence stays: it is unknown what is owed"),
        }
    }

    /// Reads keys and policy again, however recently that was done.
    pub fn reload(&self) {
        self.parts.keys.read_again();
        self.parts.policy.read_again();
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
        if let Some(reason) = self.parts.executor.pool_metrics().and_then(|pool| pool.shortage) {
            return Some(format!(
                "machines are missing, and the last one could not be made: {reason}"
            ));
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
    /// journalled with its result, and those that could be delivered are delivered.
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
    pub async fn watch_kill_switch(&self) {
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

    /// Whether a command of this id was taken before, by this process or an earlier one.
    pub async fn is_known(&self, command_id: &str) -> bool {
        matches!(self.parts.journal.find(command_id).await, Ok(Some(_)))
    }

    /// The state of the agent and of its machines.
    pub fn health(&self) -> (AgentHealth, WireState) {
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

    /// Passes alarms on to this listener for as long as it exists.
    pub fn listen(&self, listener: Weak<dyn AlarmListener>) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    fn listeners(&self) -> Vec<Arc<dyn AlarmListener>> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.iter().filter_map(Weak::upgrade).collect()
    }
}
