//! What a serving relay prints about what happens.

use std::collections::HashMap;
use std::time::Instant;

use dev_relay::{DevRelay, FrameBody, ReceivedFrame, SessionInfo};
use serde_json::{Value, json};

use super::{printable, say};

/// Remembers what was printed.
pub struct Journal {
    json: bool,
    next_frame: u64,
    violations: usize,
    refused: usize,
    sessions: HashMap<String, SessionInfo>,
    /// When commands were acknowledged.
    acked: HashMap<String, Instant>,
}

impl Journal {
    pub fn new(json: bool) -> Self {
        Self {
            json,
            next_frame: 0,
            violations: 0,
            refused: 0,
            sessions: HashMap::new(),
            acked: HashMap::new(),
        }
    }

    /// Prints what is new.
    pub fn print_news(&mut self, relay: &DevRelay) {
        self.print_arrivals(relay);
        for frame in relay.frames_since(self.next_frame) {
            self.next_frame = frame.number + 1;
            self.print_frame(&frame);
        }
        let refused = relay.refused();
        for refusal in refused.iter().skip(self.refused) {
            let endpoint = refusal.endpoint_id.as_deref().unwrap_or("an unknown endpoint");
            self.print(
                &json!({"event": "refused", "endpoint_id": refusal.endpoint_id,
                    "code": refusal.code, "reason": refusal.reason}),
                || format!("{endpoint} refused: {} {}", refusal.code, refusal.reason),
            );
        }
        self.refused = refused.len();
        let violations = relay.violations();
        for violation in violations.iter().skip(self.violations) {
            self.print(
                &json!({"event": "violation", "kind": format!("{:?}", violation.kind),
                    "detail": violation.detail, "endpoint_id": violation.endpoint_id,
                    "session_id": violation.session_id, "frame": violation.frame}),
                || format!("VIOLATION {violation}"),
            );
        }
        self.violations = violations.len();
        self.print_departures(relay);
    }

    fn print_arrivals(&mut self, relay: &DevRelay) {
        for session in relay.sessions() {
            let known = self.sessions.get(&session.endpoint_id);
            if known.is_some_and(|known| known.session_id == session.session_id) {
                continue;
            }
            self.print(
                &json!({"event": "connected", "endpoint_id": session.endpoint_id,
                    "session_id": session.session_id, "agent_version": session.agent_version}),
                || format!("{} connected, agent {}", session.endpoint_id, session.agent_version),
            );
            self.sessions.insert(session.endpoint_id.clone(), session);
        }
    }

    fn print_departures(&mut self, relay: &DevRelay) {
        let gone: Vec<SessionInfo> = self
            .sessions
            .values()
            .filter(|session| relay.session(&session.endpoint_id).is_none())
            .cloned()
            .collect();
        for session in gone {
            self.sessions.remove(&session.endpoint_id);
            self.print(
                &json!({"event": "disconnected", "endpoint_id": session.endpoint_id,
                    "session_id": session.session_id}),
                || format!("{} disconnected", session.endpoint_id),
            );
        }
    }

    fn print_frame(&mut self, frame: &ReceivedFrame) {
        if !matches!(frame.body, FrameBody::Text(_)) {
            return;
        }
        let content = frame.json();
        let command = frame.command_id.as_deref().unwrap_or("no command");
        let words = match frame.kind.as_str() {
            "CommandAck" => {
                self.acked.insert(command.to_owned(), frame.at);
                Some(format!("{command} acknowledged"))
            }
            "CommandResult" => Some(format!("{command} {}", self.result(command, &content, frame))),
            "ErrorEvent" => {
                self.acked.remove(command);
                Some(format!("{command} refused: {}", reason(&content)))
            }
            _ => None,
        };
        let event = json!({"event": "frame", "endpoint_id": frame.endpoint_id.as_deref(),
            "session_id": frame.session_id.as_deref(), "frame": content});
        if self.json {
            say(&event.to_string());
        } else if let Some(words) = words {
            say(&printable(&words));
        }
    }

    fn result(&mut self, command: &str, content: &Value, frame: &ReceivedFrame) -> String {
        let took = self.acked.remove(command).map_or_else(String::new, |acked| {
            format!(" {:.1} ms after its ack", (frame.at - acked).as_secs_f64() * 1000.0)
        });
        let reset = match &content["sandbox_reset_state"]["verification_passed"] {
            Value::Bool(true) => "reset verified",
            Value::Bool(false) => "reset NOT verified",
            _ => "no reset",
        };
        match content["lifecycle_state"].as_str() {
            Some("completed") => format!("completed{took}, {reset}"),
            _ => format!("failed{took}, {reset}: {}", reason(&content["error"])),
        }
    }

    fn print(&self, event: &Value, words: impl FnOnce() -> String) {
        if self.json {
            say(&event.to_string());
        } else {
            say(&printable(&words()));
        }
    }
}

fn reason(error: &Value) -> String {
    let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    format!("{}: {}", text("code"), text("message"))
}
