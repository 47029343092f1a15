//! What endpoints did that the protocol does not allow.

use std::fmt;
use std::time::Instant;

/// The most bytes of an offending frame that are kept.
const EXCERPT: usize = 2048;

/// The rule that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ViolationKind {
    /// A frame relays in the field are known to die of.
    KillsRelay,
    /// Not JSON, or not a JSON object.
    NotJson,
    /// JSON without a canonical form: duplicate keys, keys that collide under NFC, too deep.
    NotCanonical,
    /// A binary frame: the protocol is text only.
    BinaryFrame,
    /// The first frame is not an `EndpointHello`.
    FirstFrame,
    /// Something was sent between `EndpointHello` and `EndpointHelloAck`.
    BeforeHelloAck,
    /// A frame type no endpoint sends.
    UnknownType,
    /// A field is missing, too many, or of the wrong form.
    Schema,
    /// The frame names another endpoint than the connection's.
    WrongEndpoint,
    /// The frame names another session than the connection's.
    WrongSession,
    /// A command was acknowledged twice: it may have run twice.
    SecondAck,
    /// A command was acknowledged after it had ended.
    AckAfterEnd,
    /// A result for a command that was not acknowledged.
    ResultBeforeAck,
    /// More results and errors than the command was sent times.
    SecondAnswer,
    /// Progress of a command that is not running, or that promised none.
    StrayProgress,
    /// Sequence numbers of progress do not rise.
    ProgressOrder,
    /// A result that crossed a reconnect without `resumed: true`.
    NotResumed,
    /// A frame for a command this relay never sent.
    UnknownCommand,
    /// A `HealthPong` for which the relay sent no ping.
    UnknownPing,
    /// An enrollment the relay accepts and cannot use.
    Enrollment,
}

/// One broken rule.
#[derive(Debug, Clone)]
pub struct Violation {
    /// When it was seen.
    pub at: Instant,
    /// The rule.
    pub kind: ViolationKind,
    /// What exactly was wrong.
    pub detail: String,
    /// The endpoint, where known.
    pub endpoint_id: Option<String>,
    /// The session, where there was one.
    pub session_id: Option<String>,
    /// The beginning of the frame.
    pub frame: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.detail)?;
        if let Some(endpoint) = &self.endpoint_id {
            write!(f, " (endpoint {endpoint})")?;
        }
        if !self.frame.is_empty() {
            write!(f, ": {}", self.frame)?;
        }
        Ok(())
    }
}

/// A frame that came too late to matter and breaks no rule: after the acknowledgement timer, after
/// a restart of the relay, or a result sent again with `resumed: true`.
#[derive(Debug, Clone)]
pub struct Late {
    /// When it arrived.
    pub at: Instant,
    /// The frame's type.
    pub frame: String,
    /// The command.
    pub command_id: String,
    /// Whether the frame says `resumed: true`.
    pub resumed: bool,
}

/// The beginning of a frame, cut at a character boundary.
pub(crate) fn excerpt(frame: &str) -> String {
    let mut end = frame.len().min(EXCERPT);
    while !frame.is_char_boundary(end) {
        end -= 1;
    }
    let mut excerpt = frame.get(..end).unwrap_or_default().to_owned();
    if end < frame.len() {
        excerpt.push_str(" ...");
    }
    excerpt
}
