//! A session whose other end is in this process. Tests use it to see what an agent does with
//! commands, without a relay.

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::bound::FrameBound;
use super::session::{self, Session};

/// Most frames that wait to be read.
const UNREAD: usize = 1024;

/// The other end of a session. It reads every frame; the session is over when this is dropped.
#[derive(Debug)]
pub struct LoopbackSession {
    session: Session,
    frames: mpsc::Receiver<String>,
    reader: JoinHandle<()>,
}

impl LoopbackSession {
    /// Opens a session of that id. Needs a runtime.
    pub fn open(id: &str) -> Self {
        Self::with(id, FrameBound::default(), true)
    }

    /// Opens a session of that id, whose frames have at most that length. `confirms` says whether the
    /// other end confirms what it reads. Needs a runtime.
    pub fn with(id: &str, bound: FrameBound, confirms: bool) -> Self {
        let (session, mut outbox, confirmations) = session::open(id, bound);
        let (heard, frames) = mpsc::channel(UNREAD);
        let reader = tokio::spawn(async move {
            let demand = outbox.demand();
            loop {
                tokio::select! {
                    outgoing = outbox.next() => {
                        let Some(outgoing) = outgoing else { return };
                        let (text, receipt) = outgoing.into_parts();
                        outbox.begins(text.len());
                        if heard.send(text).await.is_err() {
                            return;
                        }
                        outbox.wrote([receipt]);
                    }
                    () = demand.grows() => {}
                }
                if confirms && outbox.wants_ping() {
                    confirmations.pong(&outbox.ping());
                }
            }
        });
        Self { session, frames, reader }
    }

    /// The agent's end.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The next frame of the agent; `None` when there will be no more.
    pub async fn hear(&mut self) -> Option<String> {
        self.frames.recv().await
    }
}

impl Drop for LoopbackSession {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(session: &str) -> String {
        serde_json::json!({"type": "ErrorEvent", "session_id": session}).to_string()
    }

    #[tokio::test]
    async fn frames_are_heard_and_confirmed_until_it_is_gone() {
        let mut end = LoopbackSession::open("s");
        let session = end.session().clone();
        let sent = session.send(frame("s")).await.unwrap();
        session.confirmed(sent).await.unwrap();
        assert_eq!(end.hear().await, Some(frame("s")));
        drop(end);
        tokio::task::yield_now().await;
        assert!(session.send(frame("s")).await.is_err());
    }
}
