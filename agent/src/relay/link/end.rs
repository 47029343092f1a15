//! How an attempt or a session ended, and what that means for the next one.

use std::time::Duration;

use hyper::StatusCode;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::relay::connect::ConnectError;
use protocol::PROTOCOL_VERSION;
use protocol::shape::start_of;

/// How an attempt or a session ended. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// There was no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The relay answered the request for a WebSocket with something else.
    #[error("the relay answered the WebSocket handshake with status {status}; {}", advice(*status))]
    NoWebSocket {
        /// The relay's answer.
        status: StatusCode,
    },
    /// The relay refused this endpoint before the session began.
    #[error("the relay refuses this endpoint: {reason}; {}", refusal_advice(reason))]
    Refused {
        /// The relay's reason.
        reason: String,
    },
    /// The relay did not answer the hello.
    #[error("the relay did not answer the hello within {} s; it is overloaded, or no relay", limit.as_secs_f32())]
    NoAck {
        /// The limit.
        limit: Duration,
    },
    /// The relay sent something before it accepted the hello.
    #[error("the relay broke the protocol before the session began: {detail}")]
    BeforeAck {
        /// What it sent.
        detail: String,
    },
    /// The relay speaks another version.
    #[error(
        "the relay speaks protocol {version:?}, this agent {PROTOCOL_VERSION}; update the older of both"
    )]
    OtherVersion {
        /// The relay's version.
        version: String,
    },
    /// Another connection with this identity took over.
    #[error(
        "another agent with this endpoint's identity has connected; stop one of them, or enroll it \
         as an endpoint of its own"
    )]
    Replaced,
    /// The relay stops.
    #[error("the relay shuts down")]
    Shutdown,
    /// The relay starts anew.
    #[error("the relay restarts")]
    Restart,
    /// The relay has too many connections.
    #[error(
        "the relay has no room for another connection ({reason:?}); if many agents share this host's \
         address, ask whoever runs the relay to raise its limit"
    )]
    Busy {
        /// The relay's reason.
        reason: String,
    },
    /// The relay takes no frames as long as one that it was sent.
    #[error(
        "the relay closed the session because a frame was too long for it; set `frame_kib` to what it \
         takes"
    )]
    TooLong,
    /// The relay closed the session.
    #[error("the relay closed the session with code {code} and reason {reason:?}")]
    Closed {
        /// The code of the Close frame (RFC 6455 7.4).
        code: u16,
        /// The relay's reason.
        reason: String,
    },
    /// Nothing came for too long.
    #[error("nothing was heard from the relay for {} s; the network is down, or the relay hangs", limit.as_secs_f32())]
    Silent {
        /// The limit.
        limit: Duration,
    },
    /// Nothing could be sent for too long.
    #[error("the relay took nothing for {} s; it hangs", limit.as_secs_f32())]
    Stalled {
        /// The limit.
        limit: Duration,
    },
    /// The relay answers no pings, though other things come from it.
    #[error(
        "the relay answered no ping for {} s; something between it and this endpoint swallows them",
        limit.as_secs_f32()
    )]
    Unconfirmed {
        /// The limit.
        limit: Duration,
    },
    /// The connection broke.
    #[error("the connection to the relay broke: {detail}")]
    Broken {
        /// How.
        detail: String,
    },
    /// What came is not a WebSocket's, or beyond its limits.
    #[error("the relay broke the WebSocket protocol: {detail}")]
    Violation {
        /// How.
        detail: String,
        /// What it is told (RFC 6455 7.4.1).
        code: CloseCode,
    },
    /// The agent stops.
    #[error("the agent stops")]
    Stopped,
    /// The agent stops in the middle of a frame that the relay did not take in time.
    #[error("the agent stops, and the relay has not taken all it had to say")]
    StoppedShort,
}

fn advice(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "check the path of its URL",
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "something in front of the relay does not let this endpoint through"
        }
        _ if status.is_redirection() => "redirects are not followed: give the relay's own URL",
        _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            "the relay, or what is in front of it, is not ready"
        }
        _ => "check that its URL leads to a relay",
    }
}

fn refusal_advice(reason: &str) -> &'static str {
    match reason {
        "ENDPOINT_NOT_ENROLLED" => {
            "it was never enrolled there or its enrollment was revoked: enroll it anew with \
             `brainstorm-agent enroll --force` and a fresh token"
        }
        "ENDPOINT_PROOF_EXPIRED" => {
            "this host's clock is behind the relay's by more than a minute: correct the clock"
        }
        "ENDPOINT_PROOF_FUTURE_DATED" => {
            "this host's clock is ahead of the relay's by more than a minute: correct the clock"
        }
        "ENDPOINT_PROOF_INVALID" => {
            "the relay knows another key for it: was it enrolled again elsewhere? Enroll it anew \
             with `brainstorm-agent enroll --force` and a fresh token"
        }
        _ if reason.starts_with("unknown path") => "check the path of the relay's URL",
        _ => "ask whoever runs the relay",
    }
}

/// How long to wait before the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// Doubling from the shortest.
    Usual,
    /// The same, after an end that all endpoints of the relay see.
    Restart,
    /// The longest at once: trying sooner changes nothing.
    Longest,
    /// Longer than that, and growing: each attempt adds to what there is too much of.
    Busy,
    /// Longer than that, and growing: the other agent would only be evicted in turn.
    Replaced,
}

impl SessionEnd {
    /// What this end means for the next attempt.
    pub fn pause(&self) -> Pause {
        match self {
            Self::Replaced => Pause::Replaced,
            Self::Restart | Self::Shutdown => Pause::Restart,
            Self::Busy { .. } | Self::NoWebSocket { status: StatusCode::TOO_MANY_REQUESTS } => {
                Pause::Busy
            }
            Self::Refused { .. } | Self::OtherVersion { .. } => Pause::Longest,
            _ => Pause::Usual,
        }
    }

    /// From the relay's Close frame in an open session.
    pub fn of_close(frame: Option<&CloseFrame>) -> Self {
        let Some(frame) = frame else {
            return Self::Closed { code: CloseCode::Status.into(), reason: String::new() };
        };
        match (frame.code, frame.reason.as_str()) {
            (CloseCode::Normal, "replaced by reconnect") => Self::Replaced,
            (CloseCode::Away, _) => Self::Shutdown,
            (CloseCode::Size, _) => Self::TooLong,
            (CloseCode::Restart, _) => Self::Restart,
            (CloseCode::Again, reason) => Self::Busy { reason: start_of(reason) },
            (code, reason) => Self::Closed { code: code.into(), reason: start_of(reason) },
        }
    }

    /// From the relay's Close frame in place of its Ack.
    pub fn of_close_before_ack(frame: Option<&CloseFrame>) -> Self {
        match Self::of_close(frame) {
            Self::Closed { code, reason } if CloseCode::from(code) == CloseCode::Policy => {
                // It ends up in logs; a reason is a word or two.
                let reason = reason.chars().filter(|c| !c.is_control()).collect();
                Self::Refused { reason }
            }
            other => other,
        }
    }

    /// From what the WebSocket reports.
    pub fn of_error(error: WsError) -> Self {
        match error {
            WsError::Http(response) => Self::NoWebSocket { status: response.status() },
            WsError::Capacity(error) => {
                Self::Violation { detail: error.to_string(), code: CloseCode::Size }
            }
            WsError::Utf8(error) => Self::Violation { detail: error, code: CloseCode::Invalid },
            WsError::Protocol(error)
                if !matches!(
                    error,
                    tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake
                        | tokio_tungstenite::tungstenite::error::ProtocolError::HandshakeIncomplete
                ) =>
            {
                Self::Violation { detail: error.to_string(), code: CloseCode::Protocol }
            }
            WsError::ConnectionClosed | WsError::AlreadyClosed => {
                Self::Broken { detail: "it hung up".to_owned() }
            }
            other => Self::Broken { detail: other.to_string() },
        }
    }

    /// What the relay is told; nothing when it closed first or is not there.
    pub fn close_frame(&self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::Stopped => (CloseCode::Normal, "agent stops"),
            Self::NoAck { .. } => (CloseCode::Policy, "no EndpointHelloAck"),
            Self::BeforeAck { .. } => (CloseCode::Policy, "EndpointHelloAck expected"),
            Self::OtherVersion { .. } => (CloseCode::Policy, "protocol version"),
            Self::Violation { code, .. } => (*code, ""),
            _ => return None,
        };
        Some(CloseFrame { code, reason: reason.into() })
    }

    /// Whether the peer can still be sent a Close frame.
    pub fn is_orderly(&self) -> bool {
        !matches!(
            self,
            Self::Connect(_)
                | Self::Silent { .. }
                | Self::Stalled { .. }
                | Self::Broken { .. }
                | Self::StoppedShort
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(code: u16, reason: &'static str) -> CloseFrame {
        CloseFrame { code: code.into(), reason: reason.into() }
    }

    #[test]
    fn a_relays_close_says_when_to_come_back() {
        let end = |code, reason| SessionEnd::of_close(Some(&close(code, reason)));
        assert_eq!(end(1000, "replaced by reconnect").pause(), Pause::Replaced);
        assert_eq!(end(1001, "server shutdown").pause(), Pause::Restart);
        assert_eq!(end(1012, "").pause(), Pause::Restart);
        assert_eq!(end(1013, "too many connections").pause(), Pause::Busy);
        let before_ack =
            SessionEnd::of_close_before_ack(Some(&close(1013, "too many connections")));
        assert_eq!(before_ack.pause(), Pause::Busy);
        assert_eq!(end(1000, "").pause(), Pause::Usual);
        assert_eq!(end(1003, "invalid JSON").pause(), Pause::Usual);
        assert_eq!(end(1009, "").pause(), Pause::Usual);
        assert_eq!(SessionEnd::of_close(None).pause(), Pause::Usual);
    }

    #[test]
    fn each_refusal_says_what_to_do_and_waits_longest() {
        for (reason, advice) in [
            ("ENDPOINT_NOT_ENROLLED", "enroll --force"),
            ("ENDPOINT_PROOF_INVALID", "enroll --force"),
            ("ENDPOINT_PROOF_EXPIRED", "clock is behind"),
            ("ENDPOINT_PROOF_FUTURE_DATED", "clock is ahead"),
            ("ENDPOINT_PROOF_MALFORMED", "whoever runs"),
            ("unknown path: /x", "path of the relay's URL"),
        ] {
            let end = SessionEnd::of_close_before_ack(Some(&close(1008, reason)));
            assert_eq!(end.pause(), Pause::Longest, "{reason}");
            let text = end.to_string();
            assert!(text.contains(reason) && text.contains(advice), "{text}");
        }
        let end = SessionEnd::of_close_before_ack(Some(&close(1008, "a\u{1b}[2Jb\nc")));
        assert!(!end.to_string().contains(|c: char| c.is_control()), "{end}");
        let end = SessionEnd::of_close_before_ack(Some(&close(1003, "first frame")));
        assert_eq!(end.pause(), Pause::Usual);
    }
}
