//! A machine with its control connection.

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use guest::wire::QueryKind;
use vmm::{Machine, VsockStream};

use super::admission::Gate;
use crate::channel::{Channel, ChannelError, STALL_LIMIT};
use crate::error::SandboxError;
use crate::state::BootReport;
use crate::{QueryAnswer, query};

/// Console lines an error carries.
pub const CONSOLE_LINES: usize = 12;

/// A machine with its control connection.
pub struct Connected {
    pub machine: Arc<Machine>,
    pub gate: Arc<Gate>,
    pub report: BootReport,
    /// Kept open whatever becomes of the channels on it: a reset brings the connection back.
    control: VsockStream,
    channel: Mutex<Arc<Channel>>,
    /// Calls hold it shared, a reset exclusive.
    calls: RwLock<()>,
    /// Id of the command that began last.
    last_command: Mutex<Option<String>>,
}

impl Connected {
    /// A machine whose control connection is `control`.
    pub fn new(
        machine: Arc<Machine>,
        control: VsockStream,
        gate: Arc<Gate>,
        report: BootReport,
    ) -> Result<Self, SandboxError> {
        let channel = Mutex::new(Arc::new(channel_on(&control)?));
        let (calls, last_command) = (RwLock::new(()), Mutex::default());
        Ok(Self { machine, gate, report, control, channel, calls, last_command })
    }

    /// Notes that a command is about to run.
    pub fn begins(&self, command_id: &str) {
        *self.last_command.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(command_id.to_owned());
    }

    /// Id of the command that began last.
    pub fn last_command(&self) -> Option<String> {
        self.last_command.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The channel of the present run of the machine.
    pub fn channel(&self) -> Arc<Channel> {
        Arc::clone(&self.channel.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ports of the control connection, the guest's first.
    pub fn ports(&self) -> (u32, u32) {
        (self.control.guest_port(), self.control.host_port())
    }

    /// Keeps resets away while a call is under way.
    pub fn call(&self) -> RwLockReadGuard<'_, ()> {
        self.calls.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every call that is under way and keeps new ones away.
    pub fn exclude_calls(&self) -> RwLockWriteGuard<'_, ()> {
        if let Ok(guard) = self.calls.try_write() {
            return guard;
        }
        // A caller may wait for an answer that will not come: the end of the stream wakes it.
        let _ = self.control.shutdown(std::net::Shutdown::Both);
        self.calls.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a reset: the connection is as it was at the capture, and knows no request.
    pub fn reconnect(&self) -> Result<(), SandboxError> {
        let channel = Arc::new(channel_on(&self.control)?);
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = channel;
        Ok(())
    }

    /// Why the machine cannot be used any more; `None` while it can.
    pub fn fault(&self) -> Option<SandboxError> {
        stopped(&self.machine).or_else(|| Some(self.explain(self.channel().failure()?)))
    }

    /// The reason behind a channel error: a machine that stops takes its channel with it.
    pub fn explain(&self, error: ChannelError) -> SandboxError {
        stopped(&self.machine).unwrap_or(SandboxError::Channel(error))
    }

    /// Asks the guest about itself.
    pub fn query(&self, kind: QueryKind, limit: Duration) -> Result<QueryAnswer, ChannelError> {
        let response = self.channel().query(query::ask(kind), Instant::now() + limit)?;
        query::understand(&response)
    }

    /// Asks the guest all of this at once; the answers are in the order of the questions.
    pub fn query_all(
        &self,
        kinds: &[QueryKind],
        limit: Duration,
    ) -> Vec<Result<QueryAnswer, ChannelError>> {
        let queries = kinds.iter().map(|kind| query::ask(*kind)).collect();
        let responses = self.channel().query_all(queries, Instant::now() + limit);
        responses.into_iter().map(|response| query::understand(&response?)).collect()
    }
}

fn channel_on(control: &VsockStream) -> Result<Channel, SandboxError> {
    let half = || {
        control
            .try_clone()
            .map_err(|e| SandboxError::Channel(ChannelError::Closed { detail: e.to_string() }))
    };
    Ok(Channel::new(half()?, half()?, STALL_LIMIT))
}

fn stopped(machine: &Machine) -> Option<SandboxError> {
    let reason = machine.stop_reason()?.to_string();
    Some(SandboxError::MachineStopped {
        reason,
        console: machine.console().last_lines(CONSOLE_LINES),
    })
}
