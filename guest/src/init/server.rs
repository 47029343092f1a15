//! The event loop: who is connected, what runs, what is due.

mod children;
mod commands;
mod output;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::time::Instant;

use guest::registry::Registry;
use guest::wire::ErrorCode;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::announcement::Announcement;
use super::connection::{Connection, Fate, READ_BYTES};
use super::poller::{Poller, Token};
use super::tool::{Cgroup, Filters, Tool, Which};
use super::{census, console, vsock};

/// Connections of the host that may be open at once; further ones are closed.
const MAX_CONNECTIONS: usize = 128;
/// Share of the guest's memory that output of running tools may take in PID 1, which the kernel
/// cannot kill to get it back.
const KEPT_OUTPUT_SHARE: u64 = 4;

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
    /// Reused: fresh memory would be more for a reset to restore.
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

    /// Tells the host that this program listens. A host that does not take the message is no
    /// error, and a slow one holds up no connection.
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
}
