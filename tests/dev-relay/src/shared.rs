//! What all tasks of a relay share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use protocol::timestamp::Timestamp;
use tokio::sync::watch;

use crate::command::EventSender;
use crate::config::{Config, Faults};
use crate::connection::Line;
use crate::enrollment::Enrollments;
use crate::frame::{FrameLog, ReceivedFrame};
use crate::ledger::Ledger;
use crate::violation::{Late, Violation};

/// How many violations, late frames and refused hellos are kept of each.
const FINDINGS_KEPT: usize = 10_000;

/// A live session of an endpoint.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// The endpoint.
    pub endpoint_id: String,
    /// The tenant its hello named.
    pub tenant_id: String,
    /// The session.
    pub session_id: String,
    /// The version its hello named.
    pub agent_version: String,
    /// When the hello had been accepted.
    pub since: Instant,
}

/// A connection that was closed instead of getting a session.
#[derive(Debug, Clone)]
pub struct Refused {
    /// When.
    pub at: Instant,
    /// The endpoint its hello named, where it had one.
    pub endpoint_id: Option<String>,
    /// The close code.
    pub code: u16,
    /// The close reason.
    pub reason: String,
}

/// A session and the way to its connection.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) info: SessionInfo,
    pub(crate) line: Line,
}

/// Everything that changes.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) enrollments: Enrollments,
    pub(crate) sessions: HashMap<String, Session>,
    pub(crate) ledger: Ledger,
    pub(crate) frames: FrameLog,
    pub(crate) violations: Vec<Violation>,
    pub(crate) late: Vec<Late>,
    pub(crate) refused: Vec<Refused>,
    pub(crate) faults: Faults,
    pub(crate) signing_key: SigningKey,
    pub(crate) signing_key_id: String,
    /// Connections of the WebSocket port so far.
    pub(crate) connections: u64,
    /// Application pings without an answer: identifier and session.
    pub(crate) pings: HashMap<String, String>,
}

impl State {
    pub(crate) fn violation(&mut self, violation: Violation) {
        if self.violations.len() < FINDINGS_KEPT {
            tracing::warn!(
                endpoint = violation.endpoint_id,
                "{:?}: {}",
                violation.kind,
                violation.detail
            );
            self.violations.push(violation);
        }
    }

    pub(crate) fn late(&mut self, late: Late) {
        if self.late.len() < FINDINGS_KEPT {
            self.late.push(late);
        }
    }

    pub(crate) fn refused(&mut self, refused: Refused) {
        if self.refused.len() < FINDINGS_KEPT {
            self.refused.push(refused);
        }
    }

    /// The relay's clock.
    pub(crate) fn now(&self) -> Timestamp {
        let now = Timestamp::now().millis();
        Timestamp::from_millis(now.saturating_add(self.faults.clock_offset_ms))
    }

    /// Whether `session_id` is the endpoint's current session.
    pub(crate) fn is_current(&self, endpoint_id: &str, session_id: &str) -> bool {
        self.sessions.get(endpoint_id).is_some_and(|session| session.info.session_id == session_id)
    }
}

/// The relay's heart: its settings, its state, and a bell that rings when the state changed.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    state: Mutex<State>,
    bell: watch::Sender<()>,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Arc<Self> {
        let state = State {
            enrollments: Enrollments::default(),
            sessions: HashMap::new(),
            ledger: Ledger::default(),
            frames: FrameLog::new(config.frames_kept, config.frame_bytes_kept),
            violations: Vec::new(),
            late: Vec::new(),
            refused: Vec::new(),
            faults: Faults::default(),
            signing_key: config.tenant_key.clone(),
            signing_key_id: config.key_id(),
            connections: 0,
            pings: HashMap::new(),
        };
        Arc::new(Self { config, state: Mutex::new(state), bell: watch::Sender::new(()) })
    }

    /// Looks at the state.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A test that failed while holding the state must not hide why by failing the others.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes those who wait for something in it.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.bell.send_replace(());
        result
    }

    /// Waits until `look` finds something; `None` when it does not within `limit`.
    pub(crate) async fn wait_for<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Option<T> {
        let mut bell = self.bell.subscribe();
        let waiting = async {
            loop {
                bell.mark_unchanged();
                if let Some(found) = look(&mut self.state()) {
                    return Some(found);
                }
                if bell.changed().await.is_err() {
                    return None;
                }
            }
        };
        tokio::time::timeout(limit, waiting).await.unwrap_or_default()
    }

    /// Rings whenever the state changed.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.bell.subscribe()
    }

    pub(crate) fn log(&self, frame: ReceivedFrame) {
        self.change(|state| state.frames.push(frame));
    }

    /// Enters a command and starts its timer, before its envelope is written: an acknowledgement
    /// can never beat a timer that is armed first. False when the command was sent before.
    pub(crate) fn arm(
        self: &Arc<Self>,
        command_id: &str,
        session: &SessionInfo,
        events: EventSender,
    ) -> bool {
        let timeout = self.config.ack_timeout;
        let command = command_id.to_owned();
        let first = self.change(|state| {
            state.ledger.sent(command_id, &session.endpoint_id, &session.session_id, Some(events))
        });
        if !first {
            return false;
        }
        let shared = Arc::clone(self);
        let timer = tokio::spawn(async move {
            tokio::time::sleep(timeout).await;
            shared.change(|state| state.ledger.give_up(&command, Instant::now()));
        });
        self.state().ledger.arm(command_id, timer.abort_handle());
        true
    }
}
