//! Frames of an endpoint that has its session.

use std::time::Instant;

use protocol::canonical::{self, CanonicalError, Json};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::Peer;
use crate::connection::Line;
use crate::frame::FrameBody;
use crate::ledger::{Finding, Origin};
use crate::schema;
use crate::shared::State;
use crate::violation::{Late, ViolationKind};

/// What an `ErrorEvent` names when the refused frame had no command to name.
pub(crate) const NO_COMMAND: &str = "00000000-0000-0000-0000-000000000000";

/// A rule that was broken, and how.
type Broken = (ViolationKind, String);

/// What a control frame is kept as.
pub(super) fn control(message: &Message) -> FrameBody {
    match message {
        Message::Ping(_) => FrameBody::Ping,
        Message::Close(frame) => FrameBody::Close(
            frame.as_ref().map(|frame| (frame.code.into(), frame.reason.as_str().to_owned())),
        ),
        _ => FrameBody::Pong,
    }
}

/// Takes in one text frame. False when it is not JSON, which ends the connection.
pub(super) fn text(peer: &Peer, line: &Line, text: &str, at: Instant) -> bool {
    let parsed: Result<Value, _> = serde_json::from_str(text);
    let frame = parsed.as_ref().unwrap_or(&Value::Null);
    let kind = frame["type"].as_str().unwrap_or_default();
    let command_id = frame["command_id"].as_str();
    let mut broken: Vec<Broken> = canonical_problem(text, frame).into_iter().collect();
    let mut readable = true;
    match &parsed {
        // Relays in the field read a number out of range as infinity.
        Err(error) if error.to_string().contains("out of range") => {}
        Err(error) => {
            readable = false;
            broken.push((ViolationKind::NotJson, error.to_string()));
        }
        Ok(frame) => broken.extend(form(peer, kind, frame)),
    }
    peer.shared.change(|state| {
        state.frames.push(peer.received(at, kind, command_id, FrameBody::Text(text.into())));
        match kind {
            "HealthPing" => {
                line.send_text(pong(state, frame));
            }
            "HealthPong" => {
                let ping = frame["ping_id"].as_str().unwrap_or_default();
                if state.pings.remove(ping).is_none() {
                    broken.push((ViolationKind::UnknownPing, format!("ping_id {ping:?}")));
                }
            }
            "CommandAck" | "ProgressEvent" | "CommandResult" | "ErrorEvent" => {
                if let Some(command_id) =
                    command_id.filter(|id| kind != "ErrorEvent" || *id != NO_COMMAND)
                {
                    broken.extend(about_command(state, kind, command_id, frame, at));
                }
            }
            _ => {}
        }
        for (kind, detail) in broken {
            state.violation(peer.violation(kind, &detail, text));
        }
    });
    readable
}

/// What is wrong with the frame by itself.
fn form(peer: &Peer, kind: &str, frame: &Value) -> Vec<Broken> {
    let Some(object) = frame.as_object() else {
        let rule = if frame.is_null() { ViolationKind::KillsRelay } else { ViolationKind::NotJson };
        return vec![(rule, "a frame must be an object".to_owned())];
    };
    let mut broken: Vec<Broken> = match schema::problems(kind, object) {
        Some(problems) => problems
            .into_iter()
            .map(|problem| (ViolationKind::Schema, format!("{kind}: {problem}")))
            .collect(),
        None => vec![(ViolationKind::UnknownType, format!("type {kind:?}"))],
    };
    if kind == "EndpointHello" {
        broken.push((ViolationKind::FirstFrame, "a second EndpointHello".to_owned()));
    }
    broken.extend(strangers(peer, frame));
    broken
}

/// What is wrong with the frame where it stands in its command's history.
fn about_command(
    state: &mut State,
    kind: &str,
    command_id: &str,
    frame: &Value,
    at: Instant,
) -> Vec<Broken> {
    let endpoint_id = frame["endpoint_id"].as_str().unwrap_or_default();
    let session_id = frame["session_id"].as_str().unwrap_or_default();
    let current = state.is_current(endpoint_id, session_id);
    let origin = Origin { endpoint_id, session_id, current, at };
    let mut broken = Vec::new();
    for finding in state.ledger.frame(kind, command_id, frame, &origin) {
        match finding {
            Finding::Broken(rule, detail) => broken.push((rule, format!("{kind}: {detail}"))),
            Finding::Late => {
                let resumed = frame["resumed"] == true;
                let (frame, command_id) = (kind.to_owned(), command_id.to_owned());
                state.late(Late { at, frame, command_id, resumed });
            }
        }
    }
    broken
}

/// Whether the identifiers inside the frame are those of its connection.
fn strangers(peer: &Peer, frame: &Value) -> Vec<Broken> {
    let own = [
        (ViolationKind::WrongEndpoint, "endpoint_id", peer.endpoint_id.as_deref()),
        (ViolationKind::WrongSession, "session_id", peer.session_id.as_deref()),
    ];
    own.into_iter()
        .filter_map(|(kind, name, own)| {
            let said = frame[name].as_str()?;
            (Some(said) != own).then(|| (kind, format!("{name} {said} is not the connection's")))
        })
        .collect()
}

/// What keeps a frame from having a canonical form, which relays hash for their audit.
fn canonical_problem(text: &str, frame: &Value) -> Option<Broken> {
    let error = Json::parse(text).err()?;
    let kind = match &error {
        // Relays let the last of two equal keys win, and die of two that become equal.
        CanonicalError::DuplicateKey(_) if canonical::check_keys(frame).is_err() => {
            ViolationKind::KillsRelay
        }
        CanonicalError::Syntax(what) if what.contains("out of range") => ViolationKind::KillsRelay,
        CanonicalError::Syntax(_) => return None,
        _ => ViolationKind::NotCanonical,
    };
    Some((kind, error.to_string()))
}

fn pong(state: &State, ping: &Value) -> String {
    json!({
        "type": "HealthPong",
        "session_id": ping["session_id"],
        "ts": state.now(),
        "ping_id": ping["ping_id"].as_str().unwrap_or("(missing)"),
        "agent_health": "ok",
    })
    .to_string()
}
