//! Every command this relay sent, and whether its endpoint keeps to the order of frames.
//!
//! What relays in the field do with each frame (forward it, drop it, answer the operator with an
//! error) is reproduced; what they let pass is found as a [`Finding`].

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use serde_json::Value;
use tokio::task::AbortHandle;

use crate::command::{EventSender, Happening, Outcome};
use crate::violation::ViolationKind;

/// Stands for no command.
const NIL: &str = "00000000-0000-0000-0000-000000000000";

/// How many commands are remembered; the oldest go first.
const COMMANDS_KEPT: usize = 400_000;

/// What a frame about a command amounts to, beyond what its sender is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// A rule was broken.
    Broken(ViolationKind, String),
    /// It came too late to matter.
    Late,
}

/// Where a frame about a command came from.
pub(crate) struct Origin<'a> {
    /// What the frame itself says.
    pub(crate) endpoint_id: &'a str,
    /// What the frame itself says.
    pub(crate) session_id: &'a str,
    /// Whether that is the endpoint's current session.
    pub(crate) current: bool,
    pub(crate) at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Dispatched,
    Started,
    Ended,
    /// Given up by the acknowledgement timer or by a restart: whatever still comes is late.
    GivenUp,
}

#[derive(Debug)]
struct CommandRecord {
    endpoints: Vec<String>,
    session_id: String,
    phase: Phase,
    sends: u32,
    acks: u32,
    results: u32,
    errors: u32,
    promised_progress: bool,
    last_seq: Option<i64>,
    events: Option<EventSender>,
    timer: Option<AbortHandle>,
}

impl CommandRecord {
    fn tell(&self, at: Instant, what: Happening) {
        if let Some(events) = &self.events {
            events.send(at, what);
        }
    }

    fn complain(&self, at: Instant, code: &'static str, message: &str) {
        self.tell(at, Happening::Complaint { code, message: message.to_owned() });
    }

    fn end(&mut self, at: Instant, phase: Phase, outcome: Outcome) {
        self.phase = phase;
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        self.tell(at, Happening::Finished(outcome));
        self.events = None;
    }

    fn answers(&self) -> u32 {
        self.results.saturating_add(self.errors)
    }
}

/// The commands by identifier.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    commands: HashMap<String, CommandRecord>,
    order: VecDeque<String>,
}

impl Ledger {
    /// Enters a command before its envelope is written. One that is known already keeps its
    /// history: it counts as sent again, unless its events are asked for, which is refused.
    pub(crate) fn sent(
        &mut self,
        command_id: &str,
        endpoint_id: &str,
        session_id: &str,
        events: Option<EventSender>,
    ) -> bool {
        if let Some(command) = self.commands.get_mut(command_id) {
            if events.is_some() {
                return false;
            }
            command.sends = command.sends.saturating_add(1);
            if !command.endpoints.iter().any(|known| known == endpoint_id) {
                command.endpoints.push(endpoint_id.to_owned());
            }
            return true;
        }
        if let Some(events) = &events {
            events.send(Instant::now(), Happening::Dispatched);
        }
        self.order.push_back(command_id.to_owned());
        self.commands.insert(
            command_id.to_owned(),
            CommandRecord {
                endpoints: vec![endpoint_id.to_owned()],
                session_id: session_id.to_owned(),
                phase: Phase::Dispatched,
                sends: 1,
                acks: 0,
                results: 0,
                errors: 0,
                promised_progress: false,
                last_seq: None,
                events,
                timer: None,
            },
        );
        if self.order.len() > COMMANDS_KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.commands.remove(&oldest);
        }
        true
    }

    /// Hands over the timer of a command that was just entered.
    pub(crate) fn arm(&mut self, command_id: &str, timer: AbortHandle) {
        match self.commands.get_mut(command_id) {
            Some(command) if command.phase == Phase::Dispatched => command.timer = Some(timer),
            _ => timer.abort(),
        }
    }

    /// The acknowledgement timer ran out.
    pub(crate) fn give_up(&mut self, command_id: &str, at: Instant) {
        if let Some(command) = self.commands.get_mut(command_id)
            && command.phase == Phase::Dispatched
        {
            command.timer = None;
            command.end(at, Phase::GivenUp, Outcome::NoAck);
        }
    }

    /// The relay forgets what is under way, as one that restarts does.
    pub(crate) fn forget_all(&mut self, at: Instant) {
        for command in self.commands.values_mut() {
            if matches!(command.phase, Phase::Dispatched | Phase::Started) {
                command.end(at, Phase::GivenUp, Outcome::Forgotten);
            }
        }
    }

    /// How many commands have no end yet.
    pub(crate) fn open(&self) -> usize {
        let open =
            |command: &&CommandRecord| matches!(command.phase, Phase::Dispatched | Phase::Started);
        self.commands.values().filter(open).count()
    }

    /// Judges a frame about a command and tells the command's sender what it is to know.
    pub(crate) fn frame(
        &mut self,
        kind: &str,
        command_id: &str,
        frame: &Value,
        origin: &Origin<'_>,
    ) -> Vec<Finding> {
        let Some(command) = self.commands.get_mut(command_id) else {
            // What names no command is refused under the nil UUID: the frame has to have an id.
            if kind == "ErrorEvent" && command_id == NIL {
                return Vec::new();
            }
            let what = format!("{kind} for command {command_id}, which was never sent");
            return vec![Finding::Broken(ViolationKind::UnknownCommand, what)];
        };
        if !command.endpoints.iter().any(|known| known == origin.endpoint_id) {
            let what = format!("{kind} for a command of endpoint {}", command.endpoints.join(", "));
            command.complain(origin.at, "RELAY_ENDPOINT_MISMATCH", &what);
            return vec![Finding::Broken(ViolationKind::WrongEndpoint, what)];
        }
        if !origin.current {
            let what = format!("{kind} of session {}", origin.session_id);
            command.complain(origin.at, "ENDPOINT_SESSION_STALE", &what);
            // The connection's own check has named the violation already.
            return Vec::new();
        }
        match kind {
            "CommandAck" => ack(command, frame, origin),
            "ProgressEvent" => progress(command, frame, origin),
            "CommandResult" => result(command, frame, origin),
            "ErrorEvent" => error(command, frame, origin),
            _ => Vec::new(),
        }
    }
}

fn broken(kind: ViolationKind, what: &str) -> Vec<Finding> {
    vec![Finding::Broken(kind, what.to_owned())]
}

fn ack(command: &mut CommandRecord, frame: &Value, origin: &Origin<'_>) -> Vec<Finding> {
    command.acks = command.acks.saturating_add(1);
    if command.acks > 1 {
        command.complain(origin.at, "RELAY_INTERNAL_ERROR", "acknowledged twice");
        return broken(ViolationKind::SecondAck, "the command was acknowledged before");
    }
    command.promised_progress = frame["will_emit_progress"] == true;
    match command.phase {
        Phase::Dispatched => {
            command.phase = Phase::Started;
            if let Some(timer) = command.timer.take() {
                timer.abort();
            }
            command.tell(origin.at, Happening::Started(frame.clone()));
            Vec::new()
        }
        Phase::GivenUp => vec![Finding::Late],
        // A second sending of the same envelope may have been refused before the first was acked.
        _ if command.answers() < command.sends => Vec::new(),
        _ => broken(ViolationKind::AckAfterEnd, "the command had ended"),
    }
}

fn progress(command: &mut CommandRecord, frame: &Value, origin: &Origin<'_>) -> Vec<Finding> {
    if command.phase == Phase::GivenUp {
        return vec![Finding::Late];
    }
    let mut findings = Vec::new();
    if command.acks == 0 || command.results > 0 {
        findings = broken(ViolationKind::StrayProgress, "the command is not running");
    } else if !command.promised_progress {
        findings = broken(ViolationKind::StrayProgress, "the acknowledgement promised none");
    }
    let seq = frame["seq"].as_i64();
    if seq.is_some() && seq <= command.last_seq {
        let what = format!("seq {seq:?} after {:?}", command.last_seq);
        findings.push(Finding::Broken(ViolationKind::ProgressOrder, what));
    }
    command.last_seq = seq.or(command.last_seq);
    command.tell(origin.at, Happening::Progress(frame.clone()));
    findings
}

fn result(command: &mut CommandRecord, frame: &Value, origin: &Origin<'_>) -> Vec<Finding> {
    let resumed = frame["resumed"] == true;
    let moved = command.session_id != origin.session_id;
    let mut findings = Vec::new();
    if moved && !resumed {
        let what = format!("sent in session {}, resumed is not true", command.session_id);
        findings = broken(ViolationKind::NotResumed, &what);
    }
    let first = command.results == 0;
    command.results = command.results.saturating_add(1);
    match command.phase {
        Phase::GivenUp if first || resumed => findings.push(Finding::Late),
        Phase::Dispatched => {
            // The command stays open: relays in the field wait for the acknowledgement.
            command.complain(origin.at, "RELAY_INTERNAL_ERROR", "a result before its ack");
            findings.extend(broken(ViolationKind::ResultBeforeAck, "there was no CommandAck"));
        }
        Phase::Started => {
            if schema_kills(frame) {
                findings.extend(broken(ViolationKind::KillsRelay, "failed without an error"));
            }
            command.end(origin.at, Phase::Ended, Outcome::Result(frame.clone()));
        }
        Phase::Ended if first && command.answers() <= command.sends => {}
        Phase::Ended if resumed => findings.push(Finding::Late),
        Phase::Ended | Phase::GivenUp => {
            findings.extend(broken(ViolationKind::SecondAnswer, "the command had ended"));
        }
    }
    findings
}

fn schema_kills(frame: &Value) -> bool {
    frame.as_object().is_some_and(crate::schema::fails_without_error)
}

fn error(command: &mut CommandRecord, frame: &Value, origin: &Origin<'_>) -> Vec<Finding> {
    command.errors = command.errors.saturating_add(1);
    let excess = command.answers() > command.sends;
    match command.phase {
        Phase::Dispatched | Phase::Started => {
            command.end(origin.at, Phase::Ended, Outcome::Refused(frame.clone()));
            Vec::new()
        }
        Phase::GivenUp => vec![Finding::Late],
        Phase::Ended if excess => broken(ViolationKind::SecondAnswer, "the command had ended"),
        Phase::Ended => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
