//! A booted machine with its control connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use guest::wire::QueryKind;
use vmm::Machine;

use super::admission::Gate;
use crate::sandbox::channel::{Channel, ChannelError};
use crate::sandbox::error::SandboxError;
use crate::sandbox::state::BootReport;
use crate::sandbox::{QueryAnswer, query};

/// Console lines an error carries.
pub const CONSOLE_LINES: usize = 12;

/// A booted machine with its control connection.
pub struct Live {
    pub machine: Arc<Machine>,
    pub channel: Channel,
    pub gate: Gate,
    pub report: BootReport,
}

impl Live {
    /// Why the machine cannot be used any more; `None` while it can.
    pub fn fault(&self) -> Option<SandboxError> {
        stopped(&self.machine).or_else(|| Some(self.explain(self.channel.failure()?)))
    }

    /// The reason behind a channel error: a machine that stops takes its channel with it.
    pub fn explain(&self, error: ChannelError) -> SandboxError {
        stopped(&self.machine).unwrap_or(SandboxError::Channel(error))
    }

    /// Asks the guest about itself.
    pub fn query(&self, kind: QueryKind, limit: Duration) -> Result<QueryAnswer, ChannelError> {
        let response = self.channel.query(query::ask(kind), Instant::now() + limit)?;
        query::understand(&response)
    }
}

fn stopped(machine: &Machine) -> Option<SandboxError> {
    let reason = machine.stop_reason()?.to_string();
    Some(SandboxError::MachineStopped {
        reason,
        console: machine.console().last_lines(CONSOLE_LINES),
    })
}
