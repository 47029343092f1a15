//! The relay as one way to the commands: frames of its sessions become submissions, and answers become
//! frames. Results that one session did not confirm are sent again in the next.

mod deliveries;
mod restamp;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use protocol::message::{AgentHealth, CommandAck, Frame, WireState};
use tracing::{debug, warn};

use self::deliveries::Deliveries;
use self::restamp::restamp_session;
use super::link::{FrameFault, Handler, SendError, Sent, Session};
use crate::commands::answers::{Alarm, AlarmListener};
use crate::commands::{Answer, Caller, Commands, Owed, Undelivered};

/// Bytes by which the stamp of a session may lengthen a frame.
const STAMP: usize = 64;

/// Results that are read from the journal, confirmed and noted at a time.
const PAGE: usize = 256;
/// Such pages under way at a time.
const PAGES: usize = 4;

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

    /// Sends what earlier sessions left: some pages of it at a time, each confirmed and noted as a whole.
    async fn redeliver(&self, session: &Session) {
        let mut after = None;
        let mut under_way = FuturesUnordered::new();
        while !session.is_over() {
            let page = match self.commands.owed(after, PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    warn!(%error, "results cannot be read from the journal");
                    break;
                }
            };
            let Some(last) = page.last() else { break };
            after = last.number();
            under_way.push(self.deliver_page(session, page));
            if under_way.len() >= PAGES {
                under_way.next().await;
            }
        }
        while under_way.next().await.is_some() {}
    }

    /// Sends results in a session, all but those that another task is sending, and notes them together
    /// when the relay has read the last of them.
    async fn deliver_page(&self, session: &Session, mut page: Vec<Owed<'_>>) {
        page.retain(|owed| self.deliveries.begin(owed.command_id()));
        debug!(results = page.len(), "results go out again");
        let receipts = join_all(page.iter_mut().map(|owed| write_in(session, owed))).await;
        let last = receipts.iter().flatten().max_by_key(|sent| sent.count());
        let is_confirmed = match last {
            Some(last) => session.confirmed(*last).await.is_ok(),
            None => false,
        };
        let (mut read, mut left): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
        for (owed, receipt) in page.into_iter().zip(receipts) {
            let is_read = is_confirmed && receipt.is_some();
            if is_read { read.push(owed) } else { left.push(owed) }
        }
        self.commands.read(&mut read).await;
        for owed in &read {
            self.deliveries.end_unless(owed.command_id(), || false);
        }
        // There may be another session, which has left these to this task.
        let failed_in = &session.id;
        join_all(left.iter_mut().map(|owed| self.deliver(owed, Some(Arc::clone(failed_in))))).await;
    }

    /// Sends a result in the current session, and in the next ones if that fails, but not in
    /// `failed_in`. The command has to be in `deliveries`; it is not any more when this returns.
    async fn deliver(&self, owed: &mut Owed<'_>, mut failed_in: Option<Arc<str>>) {
        loop {
            let mut next = None;
            let ends = self.deliveries.end_unless(owed.command_id(), || {
                next = self.session().filter(|session| Some(&session.id) != failed_in.as_ref());
                next.is_some()
            });
            let (false, Some(session)) = (ends, next) else { return };
            if let Some(sent) = write_in(&session, owed).await
                && session.confirmed(sent).await.is_ok()
            {
                owed.read().await;
                self.deliveries.end_unless(owed.command_id(), || false);
                return;
            }
            failed_in = Some(Arc::clone(&session.id));
        }
    }
}

/// Writes a result in a session. Returns the receipt, if it was written.
async fn write_in(session: &Session, owed: &mut Owed<'_>) -> Option<Sent> {
    let Some(text) = restamp_session(owed.text(), &session.id) else {
        warn!(command = owed.command_id(), "the journal holds no result for it that can be sent");
        return None;
    };
    let sent = match session.send_result(text).await {
        Err(SendError::Refused(FrameFault::TooLong { bound, .. })) => {
            owed.cut(bound.saturating_sub(STAMP)).await;
            session.send_result(restamp_session(owed.text(), &session.id)?).await
        }
        sent => sent,
    };
    let sent = sent.ok()?;
    owed.written();
    Some(sent)
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

    fn acknowledge(
        &self,
        ack: CommandAck,
        before: Instant,
    ) -> BoxFuture<'_, Result<(), Undelivered>> {
        Box::pin(async move {
            let sent = self.session.send_before(ack.to_text(), before).await;
            sent.map(drop).map_err(|error| Undelivered { reason: error.to_string() })
        })
    }

    fn expect_last_answer(&self, command_id: &str) {
        self.adapter.deliveries.begin(command_id);
    }

    fn deliver<'a>(&'a self, owed: &'a mut Owed<'_>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.adapter.deliver(owed, None).await;
        })
    }
}
