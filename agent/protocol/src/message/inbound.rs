//! Frames from the relay. What is not signed may have more fields than these: later relays add some.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use crate::shape::{is_uuid, start_of};
use crate::timestamp::Timestamp;

/// Longest frame from a relay, in bytes.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// Longest `ping_id` that is taken, in bytes: it goes back.
const MAX_PING_ID: usize = 256;

/// A frame from the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbound {
    /// The connection is accepted.
    Ack(EndpointHelloAck),
    /// A command, by its `type` alone.
    Envelope,
    /// The relay asks how the agent is.
    HealthPing(RelayPing),
    /// The relay's answer to a ping of this endpoint.
    HealthPong(RelayPong),
    /// The relay tells of an error. Never acted upon.
    Error(RelayError),
    /// A JSON object of another `type`.
    Unknown {
        /// Start of that `type`, when it is text.
        kind: Option<String>,
    },
    /// A frame of another type.
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
}

/// Answers an [`EndpointHello`](super::EndpointHello).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct EndpointHelloAck {
    #[serde(rename = "type")]
    _kind: String,
    /// The session of this connection, a UUID.
    pub session_id: String,
    /// The relay's version of the protocol.
    pub server_protocol_version: String,
    /// The relay's clock.
    pub ts: Option<Timestamp>,
}

/// The relay asks how the agent is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RelayPing {
    #[serde(rename = "type")]
    _kind: String,
    /// Goes back in the answer.
    pub ping_id: String,
    /// The session.
    pub session_id: Option<String>,
    /// This endpoint.
    pub endpoint_id: Option<String>,
    /// The relay's clock.
    pub ts: Option<Timestamp>,
}

/// The relay's answer to a ping.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RelayPong {
    #[serde(rename = "type")]
    _kind: String,
    /// From the ping.
    pub ping_id: String,
    /// The session.
    pub session_id: Option<String>,
    /// This endpoint.
    pub endpoint_id: Option<String>,
    /// How the relay is.
    pub agent_health: Option<String>,
    /// Machines of the sender; a relay has none.
    pub sandbox_state: Option<String>,
    /// The relay's clock.
    pub ts: Option<Timestamp>,
}

/// The relay tells of an error. It is only ever logged.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RelayError {
    /// The kind of error.
    pub code: String,
    /// For a person.
    #[serde(default)]
    pub message: String,
    /// The command, when it is about one.
    pub command_id: Option<String>,
}

/// Says what a frame is. Of a command only its `type` is looked at.
pub fn classify(text: &str) -> Inbound {
    match kind(text) {
        Err(reason) => Inbound::Malformed { reason },
        Ok(None) => Inbound::Unknown { kind: None },
        Ok(Some(kind)) => match kind.as_ref() {
            "CommandEnvelope" => Inbound::Envelope,
            "EndpointHelloAck" => of(text, ack),
            "HealthPing" => of(text, ping),
            "HealthPong" => of(text, |pong| Ok(Inbound::HealthPong(pong))),
            "ErrorEvent" => of(text, |error| Ok(Inbound::Error(error))),
            other => Inbound::Unknown { kind: Some(start_of(other)) },
        },
    }
}

/// The `type` of a frame; `None` when it has none, or one that is not text.
fn kind(text: &str) -> Result<Option<Cow<'_, str>>, String> {
    #[derive(Deserialize)]
    struct Kind<'a> {
        #[serde(borrow, default, rename = "type")]
        kind: Option<TypeField<'a>>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum TypeField<'a> {
        Text(#[serde(borrow)] Cow<'a, str>),
        Other(#[allow(dead_code)] Value),
    }

    if text.len() > MAX_FRAME_BYTES {
        return Err(format!("the frame has {} bytes; the limit is {MAX_FRAME_BYTES}", text.len()));
    }
    // Derived readers take an array for a struct as well; a frame is an object.
    if !text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{') {
        return Err("the frame is not a JSON object".into());
    }
    match serde_json::from_str(text) {
        Ok(Kind { kind: Some(TypeField::Text(kind)) }) => Ok(Some(kind)),
        Ok(_) => Ok(None),
        Err(error) => Err(format!("the frame is not valid JSON: {error}")),
    }
}

fn of<'a, T: Deserialize<'a>>(
    text: &'a str,
    accept: impl FnOnce(T) -> Result<Inbound, &'static str>,
) -> Inbound {
    let read = serde_json::from_str(text).map_err(|error| start_of(&error.to_string()));
    let accepted = read.and_then(|frame| accept(frame).map_err(str::to_owned));
    accepted.unwrap_or_else(|reason| Inbound::Malformed { reason })
}

fn ack(ack: EndpointHelloAck) -> Result<Inbound, &'static str> {
    if !is_uuid(&ack.session_id) {
        return Err("session_id of the EndpointHelloAck is not a UUID");
    }
    Ok(Inbound::Ack(ack))
}

fn ping(ping: RelayPing) -> Result<Inbound, &'static str> {
    if ping.ping_id.is_empty() || ping.ping_id.len() > MAX_PING_ID {
        return Err("ping_id of the HealthPing must have 1 to 256 bytes");
    }
    Ok(Inbound::HealthPing(ping))
}
