//! Where the answers to a command go. Each way into the agent implements [`Caller`]; commands know
//! nothing else of it.

use std::time::Instant;

use futures_util::future::BoxFuture;
use protocol::code::ErrorCode;
use protocol::message::{CommandAck, ErrorEvent, Frame, ProgressEvent};
use thiserror::Error;

use super::owed::Owed;

/// The origin of an envelope, and the way back to it.
pub trait Caller: Send + Sync + 'static {
    /// The session that an envelope has to be signed for. Answers name it.
    fn session_id(&self) -> &str;

    /// Passes an answer on. Returns once it is written to the caller.
    ///
    /// # Errors
    ///
    /// The caller is gone, or the answer cannot be written. A command whose acknowledgement is not
    /// written does not run. Any other answer may get lost.
    fn answer(&self, answer: Answer) -> BoxFuture<'_, Result<(), Undelivered>>;

    /// Passes the acknowledgement of a command on. Returns once it is written to the caller; a caller that
    /// can call it back does so at `before`, when it is worth nothing any more.
    ///
    /// # Errors
    ///
    /// The caller is gone, or the acknowledgement could not be written in time.
    fn acknowledge(
        &self,
        ack: CommandAck,
        before: Instant,
    ) -> BoxFuture<'_, Result<(), Undelivered>> {
        let _ = before;
        self.answer(Answer::Acknowledged(ack))
    }

    /// Announces that the last answer of a command is about to become durable. It is among what
    /// [`Commands::owed`](super::Commands::owed) gives from then on. A caller that delivers such
    /// answers by itself leaves this one alone until [`deliver`](Self::deliver) is called.
    fn expect_last_answer(&self, command_id: &str) {
        let _ = command_id;
    }

    /// Delivers the last answer of a command, which is durable. The caller reports through
    /// [`Owed::written`] and [`Owed::read`] how far it came. Until it reports that the answer was
    /// read, the answer stays owed, also over a restart of the agent.
    fn deliver<'a>(&'a self, owed: &'a mut Owed<'_>) -> BoxFuture<'a, ()>;
}

/// An answer that is not the last one of a command that was acknowledged.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The command is accepted. It runs if this is written.
    Acknowledged(CommandAck),
    /// The command started, or is still under way.
    Progress(ProgressEvent),
    /// The envelope was refused. It will not run.
    Refused(ErrorEvent),
}

impl Answer {
    /// The answer as JSON.
    pub fn to_text(&self) -> String {
        match self {
            Self::Acknowledged(ack) => ack.to_text(),
            Self::Progress(event) => event.to_text(),
            Self::Refused(event) => event.to_text(),
        }
    }
}

/// An answer was not written to its caller.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the answer could not be written to the caller: {reason}")]
pub struct Undelivered {
    /// Why not, in words.
    pub reason: String,
}

/// Something that concerns the whole endpoint and that its callers are told at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// The protocol's code.
    pub code: ErrorCode,
    /// What happened, in words.
    pub message: String,
}

/// A way into the agent that passes alarms on to its caller.
pub trait AlarmListener: Send + Sync + 'static {
    /// Passes the alarm on. Returns once it is written, or cannot be. The result of the command that
    /// raised the alarm is delivered afterwards, unless this takes long: a listener that hangs delays
    /// no result.
    fn raise<'a>(&'a self, alarm: &'a Alarm) -> BoxFuture<'a, ()>;
}
