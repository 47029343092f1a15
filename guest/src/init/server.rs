//! The event loop: who is connected, what runs, what is due.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use guest::framing::FrameError;
use guest::registry::{CallError, Registry};
use guest::wire::{
    ErrorCode, ErrorEvent, GuestMessage, GuestResponse, HostMessage, ResetAck, ResultReason,
    ToolDispatch, parse, request_id,
};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use sha2::{Digest, Sha256};

use super::announcement::Announcement;
use super::census::Census;
use super::connection::{Connection, Fate, READ_BYTES};
use super::poller::{Poller, Token};
use super::tool::{self, Cgroup, Filters, Piece, Tool, Which};
use super::{census, clock, console, freshness, reason, vsock};

const MAX_CONNECTIONS: usize = 128;
const MAX_TOOLS: usize = 16;
/// How many ids of finished commands are remembered.
const REMEMBERED_COMMANDS: usize = 1024;
/// Share of the guest's memory that output of running tools may take in PID 1, which the kernel
/// cannot kill to get it back.
const KEPT_OUTPUT_SHARE: u64 = 4;

/// Why a tool was not started: its exit code, and the reason for programs and for people.
type NotStarted = (i32, ResultReason, String);

/// Everything PID 1 holds.
pub struct Server {
    registry: Registry,
    filters: Filters,
    port: u32,
    poller: Poller,
    listener: OwnedFd,
    signals: SignalFd,
    next_id: u64,
    connections: BTreeMap<u64, Connection>,
    /// Reused: fresh memory would be more for a reset to put back.
    buffer: Vec<u8>,
    tools: BTreeMap<u64, Tool>,
    /// Most bytes of output to hold for all running tools together.
    kept_limit: usize,
    /// Hashes of the ids of finished commands: an id may be long.
    finished: VecDeque<[u8; 32]>,
    announcement: Option<Announcement>,
    /// Cgroups whose last processes are still on their way out.
    emptying: Vec<Cgroup>,
}

impl Server {
    pub fn new(registry: Registry, port: u32) -> Result<Self, String> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block().map_err(|e| e.to_string())?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&mask, flags).map_err(|e| e.to_string())?;
        let listener = vsock::listener(port)?;
        let poller = Poller::new()?;
        poller.add(&listener, Token::Listener)?;
        poller.add(&signals, Token::Signals)?;
        Ok(Self {
            registry,
            filters: Filters::new()?,
            port,
            poller,
            listener,
            signals,
            next_id: 0,
            connections: BTreeMap::new(),
            buffer: vec![0; READ_BYTES],
            tools: BTreeMap::new(),
            kept_limit: usize::try_from(census::memory_total() / KEPT_OUTPUT_SHARE)
                .unwrap_or(usize::MAX),
            finished: VecDeque::new(),
            announcement: None,
            emptying: Vec::new(),
        })
    }

    /// Tells the host that this program listens. A host that does not want to know is no error,
    /// and one that is slow to say so keeps nobody waiting.
    pub fn announce(&mut self) {
        match Announcement::begin(self.port, &self.poller) {
            Ok(announcement) => self.announcement = Some(announcement),
            Err(e) => console::print(&format!("ready, but could not say so: {e}")),
        }
    }

    fn finish_announcement(&mut self) {
        let Some(announcement) = self.announcement.take() else { return };
        match announcement.finish(&self.poller) {
            Ok(()) => console::print(&format!("ready on vsock port {}", self.port)),
            Err(e) => console::print(&format!("ready, but could not say so: {e}")),
        }
    }

    /// Serves for ever.
    pub fn serve(&mut self) -> Result<Infallible, String> {
        loop {
            for token in self.poller.wait(self.next_deadline())? {
                match token {
                    Token::Listener => self.accept(),
                    Token::Signals => self.reap(),
                    Token::Announcement => self.finish_announcement(),
                    Token::Connection(id) => self.serve_connection(id),
                    Token::Stdout(id) => self.read_tool(id, Which::Stdout),
                    Token::Stderr(id) => self.read_tool(id, Which::Stderr),
                    Token::StartError(id) => self.read_start_error(id),
                }
            }
            self.enforce_deadlines();
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let tools = self.tools.values().filter_map(Tool::deadline);
        tools.chain(self.connections.values().filter_map(Connection::deadline)).min()
    }

    fn enforce_deadlines(&mut self) {
        let now = Instant::now();
        for tool in self.tools.values_mut() {
            if tool.deadline().is_some_and(|deadline| deadline <= now) {
                tool.time_out();
            }
        }
        let late = self.connections.iter().filter(|(_, c)| c.deadline().is_some_and(|d| d <= now));
        for (id, closing) in late.map(|(id, c)| (*id, c.is_closing())).collect::<Vec<_>>() {
            if closing {
                self.drop_connection(id);
            } else {
                let why = "silent in the middle of a frame".to_owned();
                self.refuse(id, ErrorCode::FrameMalformed, why, None);
            }
        }
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn accept(&mut self) {
        while let Some(stream) = vsock::accept(&self.listener) {
            if self.connections.len() >= MAX_CONNECTIONS {
                continue;
            }
            let id = self.new_id();
            if self.poller.add(&stream, Token::Connection(id)).is_ok() {
                self.connections.insert(id, Connection::new(stream));
            }
        }
    }

    /// A connection can be read, or written to again. Reads only when all frames that came
    /// before are dealt with, so that a peer that asks and never reads cannot fill the memory.
    fn serve_connection(&mut self, id: u64) {
        self.flush(id);
        self.work_off(id);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !connection.is_closing() && !connection.is_congested() {
            if connection.read(&mut self.buffer) == Fate::Closed {
                return self.drop_connection(id);
            }
            self.work_off(id);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.note_progress();
            self.flush(id);
        }
    }

    /// Deals with the frames that are there, until answers pile up. What was asked at once is
    /// answered from one look at the guest.
    fn work_off(&mut self, id: u64) {
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

    fn handle(&mut self, id: u64, message: HostMessage, census: &mut Census) {
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
                    ts: clock::now(),
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
                        reset_complete_at: clock::now(),
                        golden_hash: String::new(),
                        verification_passed: false,
                    }),
                );
            }
        }
    }

    fn dispatch(&mut self, id: u64, dispatch: &ToolDispatch) {
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
    fn refresh(&mut self, id: u64, dispatch: &ToolDispatch) -> Result<(), NotStarted> {
        let ack = freshness::apply(&dispatch.command_id, &dispatch.freshness).map_err(failed)?;
        self.send(id, &GuestMessage::FreshnessAck(ack));
        if self.connections.contains_key(&id) {
            Ok(())
        } else {
            Err(failed("its connection is gone".to_owned()))
        }
    }

    fn start(&mut self, id: u64, dispatch: &ToolDispatch) -> Result<(), NotStarted> {
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

    /// How much more output of tools fits into memory.
    fn room(&self) -> usize {
        self.kept_limit.saturating_sub(self.tools.values().map(Tool::kept).sum())
    }

    fn read_tool(&mut self, tool_id: u64, which: Which) {
        let room = self.room();
        let Some(tool) = self.tools.get_mut(&tool_id) else { return };
        let piece = tool.read(which, room);
        let (stream, ended) = match which {
            Which::Stdout => (tool.stdout.pipe(), tool.stdout.ended),
            Which::Stderr => (tool.stderr.pipe(), tool.stderr.ended),
        };
        if ended {
            self.poller.remove(stream);
        }
        let id = tool.connection;
        if let Piece::Evidence(message) = piece {
            self.send(id, &message);
            if let Some(connection) = self.connections.get_mut(&id).filter(|c| c.is_congested()) {
                connection.tools_paused = true;
                self.watch_pipes_of(id);
            }
        }
    }

    fn read_start_error(&mut self, tool_id: u64) {
        if let Some(tool) = self.tools.get_mut(&tool_id) {
            if let Some(pipe) = &tool.start_error {
                self.poller.remove(pipe);
            }
            tool.read_start_error();
        }
    }

    /// The output of a tool waits in its pipe while its peer is slow to take what there is.
    fn watch_pipes_of(&self, id: u64) {
        let Some(connection) = self.connections.get(&id) else { return };
        let input = !connection.is_congested();
        for (tool_id, tool) in self.tools.iter().filter(|(_, tool)| tool.connection == id) {
            for (stream, token) in
                [(&tool.stdout, Token::Stdout(*tool_id)), (&tool.stderr, Token::Stderr(*tool_id))]
            {
                if !stream.ended {
                    self.poller.change(stream.pipe(), token, input, false);
                }
            }
        }
    }

    /// Collects every child that has ended: tools, and orphans of tools.
    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        self.collect(Some(WaitPidFlag::WNOHANG));
    }

    /// Without a flag, waits until there are no children any more.
    fn collect(&mut self, flag: Option<WaitPidFlag>) {
        loop {
            match waitpid(None, flag) {
                Ok(WaitStatus::StillAlive) => break,
                Ok(status) => self.ended(status),
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        self.emptying.retain(|group| !group.remove());
    }

    fn ended(&mut self, status: WaitStatus) {
        let found = self.tools.iter().find(|(_, tool)| Some(tool.pid) == status.pid());
        if let Some(tool_id) = found.map(|(tool_id, _)| *tool_id) {
            self.finish(tool_id, status);
        }
    }

    fn finish(&mut self, tool_id: u64, status: WaitStatus) {
        let room = self.room();
        let Some(tool) = self.tools.remove(&tool_id) else { return };
        for stream in [&tool.stdout, &tool.stderr] {
            if !stream.ended {
                self.poller.remove(stream.pipe());
            }
        }
        if let Some(pipe) = &tool.start_error {
            self.poller.remove(pipe);
        }
        self.remember(&tool.command_id);
        let id = tool.connection;
        let (messages, cgroup) = tool.finish(status, room);
        for message in &messages {
            self.send(id, message);
        }
        self.emptying.push(cgroup);
    }

    /// Kills every tool and waits until all their processes are gone, orphans included. SIGKILL
    /// makes that short.
    fn stop_all_tools(&mut self) {
        for tool in self.tools.values() {
            tool.kill();
        }
        self.collect(None);
    }

    fn remember(&mut self, command_id: &str) {
        if self.finished.len() >= REMEMBERED_COMMANDS {
            self.finished.pop_front();
        }
        self.finished.push_back(fingerprint(command_id));
    }

    fn reject(&mut self, id: u64, code: ErrorCode, message: &str, request_id: &str) {
        let event = ErrorEvent {
            code,
            message: message.to_owned(),
            request_id: Some(request_id.to_owned()),
        };
        self.send(id, &GuestMessage::ErrorEvent(event));
    }

    /// Answers what is not a message, and closes that connection.
    fn refuse(&mut self, id: u64, code: ErrorCode, why: String, request_id: Option<String>) {
        let event = ErrorEvent { code, message: reason::shorten(why), request_id };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.send(&GuestMessage::ErrorEvent(event));
            connection.close_after_sending();
            self.flush(id);
        }
    }

    fn send(&mut self, id: u64, message: &GuestMessage) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.send(message);
            self.flush(id);
        }
    }

    fn flush(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.flush() == Fate::Closed {
            return self.drop_connection(id);
        }
        let interest = connection.wanted();
        if interest != connection.interest {
            connection.interest = interest;
            self.poller.change(connection.stream(), Token::Connection(id), interest.0, interest.1);
        }
        if connection.tools_paused && !connection.has_unsent() {
            connection.tools_paused = false;
            self.watch_pipes_of(id);
        }
    }

    /// Nobody is left to hear of the connection's tools.
    fn drop_connection(&mut self, id: u64) {
        if let Some(connection) = self.connections.remove(&id) {
            self.poller.remove(connection.stream());
        }
        for tool in self.tools.values().filter(|tool| tool.connection == id) {
            tool.kill();
        }
    }
}

fn failed(message: String) -> NotStarted {
    (tool::NOT_STARTED, ResultReason::StartFailed, message)
}

fn fingerprint(command_id: &str) -> [u8; 32] {
    Sha256::digest(command_id).into()
}
