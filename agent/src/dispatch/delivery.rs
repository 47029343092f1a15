//! Results on their way to the relay: journalled first, sent in whatever session there is, and
//! owed until the relay has shown that it read them.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use tracing::{debug, warn};

use super::Dispatcher;
use super::command::parse_own;
use super::executor::Executor;
use super::milestone::{Milestone, Trace};
use crate::relay::Session;

/// Results read from the journal at a time.
const BATCH: usize = 64;

/// Commands whose result somebody is sending.
#[derive(Default)]
pub(super) struct Deliveries(Mutex<HashSet<String>>);

impl Deliveries {
    /// `false` when somebody else does it.
    fn begin(&self, command_id: &str) -> bool {
        self.lock().insert(command_id.to_owned())
    }

    /// Ends unless there is something left to try; both questions are one step.
    fn end_unless(&self, command_id: &str, go_on: impl FnOnce() -> bool) -> bool {
        let mut set = self.lock();
        let ends = !go_on();
        if ends {
            set.remove(command_id);
        }
        ends
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Executor> Dispatcher<E> {
    /// Makes the last frame of a command durable and sends it.
    pub(super) async fn owe(&self, command_id: &str, frame: String, mut trace: Option<Trace>) {
        // Before the journal has it, so that nobody else sends it too.
        self.deliveries.begin(command_id);
        let kept = self.parts.journal.result_ready(command_id, frame.clone()).await;
        self.note_store(kept.is_ok());
        match kept {
            Ok(()) => {
                if let Some(trace) = &mut trace {
                    self.reach(trace, Milestone::ResultReady);
                }
            }
            // The relay still learns of it now; after a crash it learns that nobody knows.
            Err(error) => warn!(command = command_id, %error, "a result could not be journalled"),
        }
        self.deliver(command_id, &frame, &mut trace).await;
        // Nobody could be told.
        if let Some(trace) = trace {
            self.parts.observer.finished(&trace);
        }
    }

    /// Sends what earlier sessions left.
    pub(super) async fn send_what_is_left(&self, session: &Session) {
        loop {
            let left = match self.parts.journal.unsent(BATCH).await {
                Ok(left) => left,
                Err(error) => return warn!(%error, "results cannot be read from the journal"),
            };
            let mut sent_any = false;
            for entry in left {
                let Some(frame) = entry.result_json else { continue };
                if self.session().is_none_or(|current| current.id != session.id) {
                    return;
                }
                if self.deliveries.begin(&entry.command.command_id) {
                    debug!(command = entry.command.command_id, "a result goes out again");
                    sent_any |= self.deliver(&entry.command.command_id, &frame, &mut None).await;
                }
            }
            if !sent_any {
                return;
            }
        }
    }

    /// Whether the relay has it. While this runs the command is marked in `deliveries`.
    async fn deliver(&self, command_id: &str, frame: &str, trace: &mut Option<Trace>) -> bool {
        let mut failed_in = None;
        loop {
            let mut next = None;
            let ends = self.deliveries.end_unless(command_id, || {
                next = self.session().filter(|session| Some(&session.id) != failed_in.as_ref());
                next.is_some()
            });
            let (false, Some(session)) = (ends, next) else { return false };
            if self.try_session(command_id, frame, &session, trace).await {
                let sent = self.parts.journal.sent(vec![command_id.to_owned()]).await;
                self.note_store(sent.is_ok());
                self.deliveries.end_unless(command_id, || false);
                // What was kept because it was owed may have to go now.
                if self.parts.evidence.is_full() {
                    self.sweep_evidence().await;
                }
                return sent.is_ok();
            }
            failed_in = Some(session.id.clone());
        }
    }

    async fn try_session(
        &self,
        command_id: &str,
        frame: &str,
        session: &Session,
        trace: &mut Option<Trace>,
    ) -> bool {
        let Some(text) = stamp(frame, &session.id) else {
            warn!(command = command_id, "the journal holds no result for it that can be sent");
            return false;
        };
        let Ok(sent) = session.send(text).await else { return false };
        if let Some(mut trace) = trace.take() {
            self.reach(&mut trace, Milestone::Sent);
            self.parts.observer.finished(&trace);
        }
        let confirmed = session.confirmed(sent).await.is_ok();
        if confirmed {
            self.parts.observer.reached(command_id, Milestone::Confirmed);
        }
        confirmed
    }
}

/// The frame for a session. One that was made for another says that it is resumed.
fn stamp(frame: &str, session_id: &str) -> Option<String> {
    let mut value = parse_own(frame)?;
    let fields = value.as_object_mut()?;
    if fields.get("session_id").and_then(Value::as_str) == Some(session_id) {
        return Some(frame.to_owned());
    }
    fields.insert("session_id".into(), session_id.into());
    if fields.contains_key("resumed") {
        fields.insert("resumed".into(), true.into());
    }
    Some(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_of_another_session_is_stamped_anew_and_says_so() {
        let frame = r#"{"type":"CommandResult","session_id":"a","resumed":false,"error":null}"#;
        assert_eq!(stamp(frame, "a").unwrap(), frame);
        let again: Value = serde_json::from_str(&stamp(frame, "b").unwrap()).unwrap();
        assert_eq!(again["session_id"], "b");
        assert_eq!(again["resumed"], true);
        assert!(again["error"].is_null());
    }

    #[test]
    fn an_error_event_knows_no_resuming() {
        let frame = r#"{"type":"ErrorEvent","session_id":""}"#;
        let again: Value = serde_json::from_str(&stamp(frame, "b").unwrap()).unwrap();
        assert_eq!(again["session_id"], "b");
        assert!(again.get("resumed").is_none());
    }

    #[test]
    fn what_is_no_frame_is_not_sent() {
        assert_eq!(stamp("null", "b"), None);
        assert_eq!(stamp("[1]", "b"), None);
        assert_eq!(stamp("", "b"), None);
    }

    #[test]
    fn one_at_a_time_delivers_a_result() {
        let deliveries = Deliveries::default();
        assert!(deliveries.begin("a"));
        assert!(!deliveries.begin("a"));
        assert!(!deliveries.end_unless("a", || true));
        assert!(!deliveries.begin("a"));
        assert!(deliveries.end_unless("a", || false));
        assert!(deliveries.begin("a"));
    }
}
