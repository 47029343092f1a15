//! The relay as one way to the commands: frames of its sessions become submissions, and answers become
//! frames. Results that one session did not confirm are sent again in the next.

mod deliveries;
mod restamp;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use futures_util::future::BoxFuture;
use protocol::message::{AgentHealth, Frame, WireState};
use tracing::{debug, warn};

use self::deliveries::Deliveries;
use self::restamp::restamp_session;
use super::link::{FrameFault, Handler, SendError, Session};
use crate::commands::answers::{Alarm, AlarmListener};
use crate::commands::{Answer, Caller, Commands, Owed, Undelivered};

/// Bytes by which the stamp of a session may lengthen a frame.
const STAMP: usize = 64;

/// Results read from the journal at a time.
const BATCH: usize = 64;

/// Hands frames of sessions to the commands, and their answers to the current session.
pub struct RelayAdapter {
    me: Weak<Self>,
    commands: Arc<Commands>,
    /// The current session. `None` while there is none.
    session: Mutex<Option<Session>>,
    deliveries: Deliveries,
}

impl RelayAdapter {
    /// An adapter over these commands, without a session.
    pub fn new(commands: Arc<Commands>) -> Arc<Self> {
        let adapter = Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            commands,
            session: Mutex::default(),
            deliveries: Deliveries::default(),
        });
        adapter.commands.listen(Weak::clone(&adapter.me) as Weak<dyn AlarmListener>);
        adapter
    }

    fn session(&self) -> Option<Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends an alarm in the current session. A relay that is not there is told with its next session.
    async fn send_alarm(&self, alarm: &Alarm) {
        let Some(session) = self.session() else { return };
        let _ = session.send(self.commands.alarm_event(alarm, &session.id).to_text()).await;
    }

    /// Sends what earlier sessions left.
    async fn redeliver(&self, session: &Session) {
        let mut after = None;
        loop {
            let owed = match self.commands.owed(after, BATCH).await {
                Ok(owed) => owed,
                Err(error) => return warn!(%error, "results cannot be read from the journal"),
            };
            let Some(last) = owed.last() else { return };
            after = last.number();
            for mut owed in owed {
                if self.session().is_none_or(|current| current.id != session.id) {
                    return;
                }
                if self.deliveries.begin(owed.command_id()) {
                    debug!(command = owed.command_id(), "a result goes out again");
                    self.deliver(&mut owed).await;
                }
            }
        }
    }

    /// Sends a result in the current session, and in the next ones if that fails. Returns whether the
    /// relay has read it and the journal says so. The command has to be in `deliveries`; it is not any
    /// more when this returns.
    async fn deliver(&self, owed: &mut Owed<'_>) -> bool {
        let mut failed_in = None;
        loop {
            let mut next = None;
            let ends = self.deliveries.end_unless(owed.command_id(), || {
                next = self.session().filter(|session| Some(&session.id) != failed_in.as_ref());
                next.is_some()
            });
            let (false, Some(session)) = (ends, next) else { return false };
            if send_in(&session, owed).await {
                let noted = owed.read().await;
                self.deliveries.end_unless(owed.command_id(), || false);
                return noted;
            }
            failed_in = Some(session.id.clone());
        }
    }
}

/// Sends a result in a session. Returns whether the relay has read it.
async fn send_in(session: &Session, owed: &mut Owed<'_>) -> bool {
    let Some(text) = restamp_session(owed.text(), &session.id) else {
        warn!(command = owed.command_id(), "the journal holds no result for it that can be sent");
        return false;
    };
    let sent = match session.send(text).await {
        Err(SendError::Refused(FrameFault::TooLong { bound, .. })) => {
            owed.cut(bound.saturating_sub(STAMP)).await;
            let Some(text) = restamp_session(owed.text(), &session.id) else { return false };
            session.send(text).await
        }
        sent => sent,
    };
    let Ok(sent) = sent else { return false };
    owed.written();
    session.confirmed(sent).await.is_ok()
}

impl Handler for RelayAdapter {
    fn connected(&self, session: Session) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
        let Some(adapter) = self.me.upgrade() else { return };
        tokio::spawn(async move {
            if let Some(alarm) = adapter.commands.alarm() {
                adapter.send_alarm(&alarm).await;
            }
            adapter.redeliver(&session).await;
        });
    }

    async fn frame(self: &Arc<Self>, session: Session, text: String, received: Instant) {
        let caller = RelayCaller { adapter: Arc::clone(self), session };
        self.commands.submit(Arc::new(caller), text, received).await;
    }

    async fn is_known_command(&self, command_id: &str) -> bool {
        self.commands.is_known(command_id).await
    }

    fn disconnected(&self, session: &Session) {
        let mut current = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.id == session.id) {
            *current = None;
        }
    }

    fn health(&self) -> (AgentHealth, WireState) {
        self.commands.health()
    }
}

impl AlarmListener for RelayAdapter {
    fn raise<'a>(&'a self, alarm: &'a Alarm) -> BoxFuture<'a, ()> {
        Box::pin(self.send_alarm(alarm))
    }
}

/// The session that an envelope came in.
struct RelayCaller {
    adapter: Arc<RelayAdapter>,
    session: Session,
}

impl Caller for RelayCaller {
    fn session_id(&self) -> &str {
        &self.session.id
    }

    fn answer(&self, answer: Answer) -> BoxFuture<'_, Result<(), Undelivered>> {
        Box::pin(async move {
            let sent = self.session.send(answer.to_text()).await;
            sent.map(drop).map_err(|error| Undelivered { reason: error.to_string() })
        })
    }

    fn expect_last_answer(&self, command_id: &str) {
        self.adapter.deliveries.begin(command_id);
    }

    fn deliver<'a>(&'a self, owed: &'a mut Owed<'_>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.adapter.deliver(owed).await;
        })
    }
}
