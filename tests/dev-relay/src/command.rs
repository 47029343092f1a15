//! What the sender of a command sees of it.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::mpsc;

/// How many events wait for a reader; progress that finds no room is dropped.
const EVENTS: usize = 256;
/// Room kept free for the events that must not be dropped.
const RESERVED: usize = 4;

/// Something that happened to a command.
#[derive(Debug, Clone)]
pub struct CommandEvent {
    /// When.
    pub at: Instant,
    /// What.
    pub what: Happening,
}

/// What can happen to a command.
#[derive(Debug, Clone)]
pub enum Happening {
    /// The timer runs and the envelope is about to be written.
    Dispatched,
    /// The endpoint acknowledged; the frame.
    Started(Value),
    /// Progress; the frame.
    Progress(Value),
    /// The endpoint broke a rule that operators are told of; the command is still open.
    Complaint {
        /// The code operators see.
        code: &'static str,
        /// In words.
        message: String,
    },
    /// The end. Nothing comes after it.
    Finished(Outcome),
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The endpoint sent a `CommandResult`, completed or failed; the frame.
    Result(Value),
    /// The endpoint sent an `ErrorEvent`; the frame.
    Refused(Value),
    /// No acknowledgement within the time allowed: `ENDPOINT_NO_ACK`.
    NoAck,
    /// The relay was restarted or stopped and forgot the command.
    Forgotten,
}

impl Outcome {
    /// The frame that ended the command, null when no frame did.
    pub fn frame(&self) -> &Value {
        match self {
            Self::Result(frame) | Self::Refused(frame) => frame,
            Self::NoAck | Self::Forgotten => &Value::Null,
        }
    }

    /// Whether it is a completed result.
    pub fn is_completed(&self) -> bool {
        matches!(self, Self::Result(frame) if frame["lifecycle_state"] == "completed")
    }

    /// The code it failed with, `None` when it completed.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Result(frame) => frame["error"]["code"].as_str(),
            Self::Refused(frame) => frame["code"].as_str(),
            Self::NoAck => Some("ENDPOINT_NO_ACK"),
            Self::Forgotten => Some("RELAY_INTERNAL_ERROR"),
        }
    }
}

/// When a command reached its stages, as far as its events have been read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    /// Before the envelope was written.
    pub dispatched: Option<Instant>,
    /// The acknowledgement had been read.
    pub started: Option<Instant>,
    /// The result or error had been read, or the timer had run out.
    pub finished: Option<Instant>,
}

impl Timings {
    /// From before the write to the acknowledgement.
    pub fn to_ack(&self) -> Option<Duration> {
        Some(self.started?.duration_since(self.dispatched?))
    }

    /// From before the write to the end.
    pub fn to_end(&self) -> Option<Duration> {
        Some(self.finished?.duration_since(self.dispatched?))
    }
}

/// Why there is no event to give.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum NoEvent {
    /// Nothing happened in time.
    #[error("command {command_id}: nothing happened within {limit:?}")]
    TimedOut {
        /// The command.
        command_id: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The command ended before the event could come.
    #[error("command {command_id} is over: {outcome}")]
    Over {
        /// The command.
        command_id: String,
        /// How it ended, in words.
        outcome: String,
    },
}

/// A command on its way.
#[derive(Debug)]
pub struct CommandHandle {
    command_id: String,
    session_id: String,
    frame: String,
    events: mpsc::Receiver<CommandEvent>,
    timings: Timings,
    acked: bool,
    outcome: Option<Outcome>,
}

impl CommandHandle {
    pub(crate) fn new(
        command_id: String,
        session_id: String,
        frame: String,
        events: mpsc::Receiver<CommandEvent>,
    ) -> Self {
        let timings = Timings::default();
        Self { command_id, session_id, frame, events, timings, acked: false, outcome: None }
    }

    /// The command's identifier.
    pub fn command_id(&self) -> &str {
        &self.command_id
    }

    /// The session it was sent on.
    pub fn session_id(&self) -> &str {
        &self.session_id
    }

    /// The envelope as it was sent, to send it again.
    pub fn frame(&self) -> &str {
        &self.frame
    }

    /// When the command reached its stages, as far as its events have been read.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// The next event. `None` after the end.
    pub async fn next(&mut self) -> Option<CommandEvent> {
        let event = self.events.recv().await?;
        match &event.what {
            Happening::Dispatched => self.timings.dispatched = Some(event.at),
            Happening::Started(_) => {
                self.timings.started = Some(event.at);
                self.acked = true;
            }
            Happening::Finished(outcome) => {
                self.timings.finished = Some(event.at);
                self.outcome = Some(outcome.clone());
            }
            Happening::Progress(_) | Happening::Complaint { .. } => {}
        }
        Some(event)
    }

    /// Waits for the acknowledgement.
    pub async fn acked(&mut self, limit: Duration) -> Result<(), NoEvent> {
        let id = self.command_id.clone();
        let reading = async {
            while !self.acked {
                if self.next().await.is_none() {
                    return Err(self.over());
                }
            }
            Ok(())
        };
        within(&id, limit, reading).await
    }

    /// Waits for the end.
    pub async fn outcome(&mut self, limit: Duration) -> Result<Outcome, NoEvent> {
        let id = self.command_id.clone();
        let reading = async {
            loop {
                if let Some(outcome) = &self.outcome {
                    return Ok(outcome.clone());
                }
                if self.next().await.is_none() {
                    return Err(self.over());
                }
            }
        };
        within(&id, limit, reading).await
    }

    fn over(&self) -> NoEvent {
        let outcome = self.outcome.as_ref().map_or_else(
            || "the relay is gone".to_owned(),
            |outcome| match outcome.code() {
                Some(code) => code.to_owned(),
                None => "completed".to_owned(),
            },
        );
        NoEvent::Over { command_id: self.command_id.clone(), outcome }
    }
}

async fn within<T>(
    command_id: &str,
    limit: Duration,
    reading: impl Future<Output = Result<T, NoEvent>>,
) -> Result<T, NoEvent> {
    match tokio::time::timeout(limit, reading).await {
        Ok(result) => result,
        Err(_) => Err(NoEvent::TimedOut { command_id: command_id.to_owned(), limit }),
    }
}

/// The relay's end of a command's events.
#[derive(Debug)]
pub(crate) struct EventSender(mpsc::Sender<CommandEvent>);

impl EventSender {
    pub(crate) fn new() -> (Self, mpsc::Receiver<CommandEvent>) {
        let (sender, receiver) = mpsc::channel(EVENTS);
        (Self(sender), receiver)
    }

    /// Never waits: what can be spared is dropped when the caller does not read.
    pub(crate) fn send(&self, at: Instant, what: Happening) {
        let spare = matches!(what, Happening::Progress(_) | Happening::Complaint { .. });
        if !spare || self.0.capacity() > RESERVED {
            // The reader may have lost interest, which is no concern of the relay's.
            let _ = self.0.try_send(CommandEvent { at, what });
        }
    }
}
