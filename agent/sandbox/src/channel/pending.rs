//! Who waits for what.

use std::collections::HashMap;
use std::sync::{Arc, Condvar};

use guest::wire::{ErrorEvent, GuestMessage, GuestResponse, QueryKind};
use tracing::warn;

use super::CommandFailure;
use super::collector::{Collector, Output};
use super::decode::Frame;
use super::error::ChannelError;
use super::frame_reader::FrameReader;
use crate::guest_text::printable;

/// What was asked.
pub enum Request {
    /// A command, and what has come of its output.
    Command(Box<Collector>),
    /// A query.
    Query(QueryKind),
}

/// What was answered.
#[derive(Debug)]
pub enum Reply {
    /// To a command.
    Output(Box<Output>),
    /// To a query.
    Answer(Box<GuestResponse>),
}

/// What was received and not wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChannelCounters {
    /// Replies to requests without a caller, or whose caller has gone.
    pub late_arrivals: u64,
    /// Frames nothing could be made of.
    pub dropped_frames: u64,
}

/// Everything the callers of a channel share.
pub struct Table {
    /// Absent while a caller reads, and for good once the connection failed.
    pub reader: Option<FrameReader>,
    pub counters: ChannelCounters,
    pending: HashMap<String, Pending>,
    failure: Option<ChannelError>,
}

struct Pending {
    request: Request,
    outcome: Option<Result<Reply, ChannelError>>,
    wake: Arc<Condvar>,
}

impl Table {
    pub fn new(reader: FrameReader) -> Self {
        Self {
            reader: Some(reader),
            counters: ChannelCounters::default(),
            pending: HashMap::new(),
            failure: None,
        }
    }

    /// The error that ended the connection.
    pub fn failure(&self) -> Option<&ChannelError> {
        self.failure.as_ref()
    }

    /// Makes room for a reply.
    pub fn register(&mut self, id: &str, request: Request) -> Result<(), ChannelError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if self.pending.contains_key(id) {
            return Err(ChannelError::DuplicateRequest { id: id.to_owned() });
        }
        let pending = Pending { request, outcome: None, wake: Arc::new(Condvar::new()) };
        self.pending.insert(id.to_owned(), pending);
        Ok(())
    }

    /// Whether a request needs no more waiting.
    pub fn is_done(&self, id: &str) -> bool {
        self.pending.get(id).is_none_or(|pending| pending.outcome.is_some())
    }

    /// What the caller of a request waits on.
    pub fn wake_of(&self, id: &str) -> Arc<Condvar> {
        self.pending.get(id).map(|pending| Arc::clone(&pending.wake)).unwrap_or_default()
    }

    /// Hands out the outcome of a request that is done.
    pub fn take(&mut self, id: &str) -> Result<Reply, CommandFailure> {
        let gone = || ChannelError::Protocol { detail: format!("request {id} was lost") };
        let mut pending = self.pending.remove(id).ok_or_else(gone)?;
        match pending.outcome.take() {
            Some(Ok(reply)) => Ok(reply),
            Some(Err(error)) => Err(pending.request.fail(error)),
            None => Err(pending.request.fail(gone())),
        }
    }

    /// Gives up a request.
    pub fn withdraw(&mut self, id: &str, error: ChannelError) -> CommandFailure {
        match self.pending.remove(id) {
            Some(pending) => pending.request.fail(error),
            None => error.into(),
        }
    }

    /// Ends the connection: the first reason stays, and every waiting call fails with it.
    pub fn fail(&mut self, error: &ChannelError) {
        let failure = self.failure.get_or_insert_with(|| error.clone()).clone();
        for pending in self.pending.values_mut() {
            pending.finish(Err(failure.clone()));
        }
        if let Some(mut reader) = self.reader.take() {
            reader.close();
        }
    }

    /// Wakes one caller that still waits, so that it reads for the others.
    pub fn wake_a_reader(&self) {
        if self.reader.is_some()
            && let Some(pending) = self.pending.values().find(|p| p.outcome.is_none())
        {
            pending.wake.notify_one();
        }
    }

    /// Gives a frame to whom it belongs.
    pub fn deliver(&mut self, frame: Frame) {
        match frame {
            Frame::Message(message) => self.deliver_message(*message),
            Frame::Odd { id, detail } => match id {
                Some(id) if self.waiting(&id).is_some() => {
                    self.finish(&id, Err(ChannelError::Protocol { detail }));
                }
                _ => self.drop_frame(&detail),
            },
        }
    }

    fn deliver_message(&mut self, message: GuestMessage) {
        match message {
            GuestMessage::FreshnessAck(ack) => match self.waiting(&ack.command_id) {
                Some(Request::Command(collector)) => {
                    if let Err(error) = collector.confirm(&ack) {
                        self.finish(&ack.command_id, Err(error));
                    }
                }
                Some(Request::Query(_)) => self.wrong_type(&ack.command_id, "FreshnessAck"),
                None => self.arrive_late(&ack.command_id),
            },
            GuestMessage::EvidenceChunk(chunk) => match self.waiting(&chunk.command_id) {
                Some(Request::Command(collector)) => {
                    if let Err(error) = collector.add(&chunk) {
                        self.finish(&chunk.command_id, Err(error));
                    }
                }
                Some(Request::Query(_)) => self.wrong_type(&chunk.command_id, "EvidenceChunk"),
                None => self.arrive_late(&chunk.command_id),
            },
            GuestMessage::ToolResult(result) => {
                let id = result.command_id.clone();
                match self.waiting(&id) {
                    Some(Request::Command(collector)) => {
                        let output = collector.finish(result);
                        self.finish(&id, output.map(|output| Reply::Output(Box::new(output))));
                    }
                    Some(Request::Query(_)) => self.wrong_type(&id, "ToolResult"),
                    None => self.arrive_late(&id),
                }
            }
            GuestMessage::GuestResponse(response) => {
                let id = response.query_id.clone();
                match self.waiting(&id) {
                    Some(Request::Query(kind)) if *kind == response.query_kind => {
                        self.finish(&id, Ok(Reply::Answer(Box::new(response))));
                    }
                    Some(_) => self.wrong_type(&id, "GuestResponse"),
                    None => self.arrive_late(&id),
                }
            }
            GuestMessage::ResetAck(ack) => self.arrive_late(&ack.reset_id),
            GuestMessage::ErrorEvent(event) => self.deliver_error(event),
            GuestMessage::GuestReady(_) => {
                self.drop_frame("GuestReady does not belong on the control connection");
            }
        }
    }

    fn deliver_error(&mut self, event: ErrorEvent) {
        let ErrorEvent { code, message, request_id } = event;
        let message = printable(&message);
        match request_id {
            Some(id) if self.waiting(&id).is_some() => {
                self.finish(&id, Err(ChannelError::Refused { code, message }));
            }
            Some(id) => self.arrive_late(&id),
            // The guest closes a connection it cannot make sense of.
            None => self.fail(&ChannelError::Protocol {
                detail: format!("it could not read a request ({code:?}): {message}"),
            }),
        }
    }

    /// The request `id`, unless its outcome stands.
    fn waiting(&mut self, id: &str) -> Option<&mut Request> {
        let pending = self.pending.get_mut(id).filter(|pending| pending.outcome.is_none())?;
        Some(&mut pending.request)
    }

    fn finish(&mut self, id: &str, outcome: Result<Reply, ChannelError>) {
        if let Some(pending) = self.pending.get_mut(id) {
            pending.finish(outcome);
        }
    }

    fn wrong_type(&mut self, id: &str, found: &str) {
        let detail = format!("{found} is no reply to request {id}");
        self.finish(id, Err(ChannelError::Protocol { detail }));
    }

    fn arrive_late(&mut self, id: &str) {
        self.counters.late_arrivals += 1;
        let count = self.counters.late_arrivals;
        // A guest that floods the connection must not flood the log.
        if count.is_power_of_two() {
            warn!(event = "late_arrival", id, count, "dropped a reply that no caller waits for");
        }
    }

    fn drop_frame(&mut self, detail: &str) {
        self.counters.dropped_frames += 1;
        let count = self.counters.dropped_frames;
        if count.is_power_of_two() {
            warn!(detail, count, "dropped a frame the guest should not have sent");
        }
    }
}

impl Pending {
    fn finish(&mut self, outcome: Result<Reply, ChannelError>) {
        if self.outcome.is_none() {
            self.outcome = Some(outcome);
            self.wake.notify_one();
        }
    }
}

impl Request {
    fn fail(self, error: ChannelError) -> CommandFailure {
        match self {
            Self::Command(collector) => {
                CommandFailure { error, partial: Box::new(collector.abandon()) }
            }
            Self::Query(_) => error.into(),
        }
    }
}
