//! Requests of the host: what a frame asks for, and how it is answered or refused.

use std::time::Duration;

use guest::framing::FrameError;
use guest::registry::CallError;
use guest::wire::{
    ErrorCode, ErrorEvent, GuestMessage, GuestResponse, HostMessage, ResetAck, ResultReason,
    ToolDispatch, parse, request_id,
};
use sha2::{Digest, Sha256};

use super::super::census::Census;
use super::super::poller::{Poller, Token};
use super::super::tool::{self, Tool};
use super::super::{freshness, reason, timestamp};
use super::Server;

/// Tools that may run at once.
const MAX_TOOLS: usize = 16;
/// Ids of finished commands that are remembered.
const REMEMBERED_COMMANDS: usize = 1024;

/// Why a tool was not started: its exit code, and the reason for programs and for people.
type NotStarted = (i32, ResultReason, String);

impl Server {
    /// Deals with the frames that are there, until answers pile up. What was asked at once is
    /// answered from one look at the guest.
    pub(super) fn work_off(&mut self, id: u64) {
        let mut census = Census::default();
        while let Some(connection) = self.connections.get_mut(&id) {
            connection.has_backlog = connection.is_congested();
            if connection.is_closing() || connection.has_backlog {
                return;
            }
            let (code, why, request) = match connection.decoder.next_frame() {
                Ok(None) => return,
                Ok(Some(body)) => match parse::<HostMessage>(body) {
                    Ok(message) => {
                        self.handle(id, message, &mut census);
                        continue;
                    }
                    Err(e) => (ErrorCode::FrameMalformed, e.to_string(), request_id(body)),
                },
                Err(e @ FrameError::TooLarge(_)) => (ErrorCode::FrameTooLarge, e.to_string(), None),
                Err(e) => (ErrorCode::FrameMalformed, e.to_string(), None),
            };
            self.refuse(id, code, why, request);
        }
    }

    pub(super) fn handle(&mut self, id: u64, message: HostMessage, census: &mut Census) {
        match message {
            HostMessage::ToolDispatch(dispatch) => {
                self.dispatch(id, &dispatch);
                *census = Census::default();
            }
            HostMessage::GuestQuery(query) => {
                let response = GuestResponse {
                    result: census.answer(query.query_kind),
                    query_id: query.query_id,
                    query_kind: query.query_kind,
                    ts: timestamp::now(),
                };
                // Sent with the answers to what else was asked.
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.send(&GuestMessage::GuestResponse(response));
                }
            }
            HostMessage::ResetSignal(signal) => {
                self.stop_all_tools();
                *census = Census::default();
                self.send(
                    id,
                    &GuestMessage::ResetAck(ResetAck {
                        reset_id: signal.reset_id,
                        reset_complete_at: timestamp::now(),
                        golden_hash: String::new(),
                        verification_passed: false,
                    }),
                );
            }
        }
    }

    pub(super) fn dispatch(&mut self, id: u64, dispatch: &ToolDispatch) {
        let command_id = &dispatch.command_id;
        let running = self.tools.values().any(|tool| tool.command_id == *command_id);
        if running || self.finished.contains(&fingerprint(command_id)) {
            return self.reject(id, ErrorCode::DuplicateCommandId, "used before", command_id);
        }
        if self.tools.len() >= MAX_TOOLS {
            return self.reject(id, ErrorCode::ToolBusy, "too many tools run", command_id);
        }
        let started = self.refresh(id, dispatch).and_then(|()| self.start(id, dispatch));
        if let Err((exit_code, reason, message)) = started {
            self.remember(command_id);
            for message in tool::not_started(command_id, exit_code, reason, message) {
                self.send(id, &message);
            }
        }
    }

    /// Takes over the time and the randomness of a dispatch and says so. No tool starts before
    /// that, and none whose host cannot be told.
    pub(super) fn refresh(&mut self, id: u64, dispatch: &ToolDispatch) -> Result<(), NotStarted> {
        let ack = freshness::apply(&dispatch.command_id, &dispatch.freshness).map_err(failed)?;
        self.send(id, &GuestMessage::FreshnessAck(ack));
        if self.connections.contains_key(&id) {
            Ok(())
        } else {
            Err(failed("its connection is gone".to_owned()))
        }
    }

    pub(super) fn start(&mut self, id: u64, dispatch: &ToolDispatch) -> Result<(), NotStarted> {
        let argv = self.registry.argv(&dispatch.tool, &dispatch.params).map_err(|e| {
            let (code, reason) = match e {
                CallError::InvalidParams { .. } => (tool::NOT_STARTED, ResultReason::InvalidParams),
                _ => (tool::UNKNOWN, ResultReason::UnknownTool),
            };
            (code, reason, e.to_string())
        })?;
        let milliseconds = u64::try_from(dispatch.deadline_ms).unwrap_or(0);
        if milliseconds == 0 {
            let message = "no time was left to run it".to_owned();
            return Err((tool::DEADLINE, ResultReason::DeadlineExceeded, message));
        }
        let spec = self
            .registry
            .check(&dispatch.tool, &dispatch.params)
            .map_err(|e| failed(e.to_string()))?;
        let deadline = Duration::from_millis(milliseconds.min(spec.limits.deadline_ms));
        let tool = Tool::start(id, &dispatch.command_id, spec, &argv, deadline, &self.filters)
            .map_err(failed)?;
        let tool_id = self.new_id();
        let watch = |poller: &Poller, tool: &Tool| {
            poller.add(tool.stdout.pipe(), Token::Stdout(tool_id))?;
            poller.add(tool.stderr.pipe(), Token::Stderr(tool_id))?;
            match &tool.start_error {
                Some(pipe) => poller.add(pipe, Token::StartError(tool_id)),
                None => Ok(()),
            }
        };
        if let Err(e) = watch(&self.poller, &tool) {
            self.emptying.push(tool.abandon());
            return Err(failed(e));
        }
        self.tools.insert(tool_id, tool);
        Ok(())
    }

    pub(super) fn remember(&mut self, command_id: &str) {
        if self.finished.len() >= REMEMBERED_COMMANDS {
            self.finished.pop_front();
        }
        self.finished.push_back(fingerprint(command_id));
    }

    pub(super) fn reject(&mut self, id: u64, code: ErrorCode, message: &str, request_id: &str) {
        let event = ErrorEvent {
            code,
            message: message.to_owned(),
            request_id: Some(request_id.to_owned()),
        };
        self.send(id, &GuestMessage::ErrorEvent(event));
    }

    /// Answers what is not a message, and closes that connection.
    pub(super) fn refuse(
        &mut self,
        id: u64,
        code: ErrorCode,
        why: String,
        request_id: Option<String>,
    ) {
        let event = ErrorEvent { code, message: reason::shorten(why), request_id };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.send(&GuestMessage::ErrorEvent(event));
            connection.close_after_sending();
            self.flush(id);
        }
    }
}

fn failed(message: String) -> NotStarted {
    (tool::NOT_STARTED, ResultReason::StartFailed, message)
}

fn fingerprint(command_id: &str) -> [u8; 32] {
    Sha256::digest(command_id).into()
}
