//! `brainstorm-agent run`

use std::process::ExitCode;

use clap::Args;

use super::{Exit, terminal};
use crate::app::{App, AppError};
use crate::config::Config;
use crate::service::{ServiceError, bear_during_start};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Address of the relay's WebSocket, wss://HOST[:PORT][/PATH].
    #[arg(long, value_name = "URL")]
    relay: Option<String>,

    /// Machines to keep ready [default: 1].
    #[arg(long, value_name = "N")]
    machines: Option<u16>,

    /// Commands that may wait for a machine [default: 64].
    #[arg(long, value_name = "N")]
    queue: Option<u16>,
}

impl Arguments {
    /// As settings; the caller merges them with all other sources.
    pub fn overrides(&self, overrides: &mut crate::config::Overrides) {
        overrides.relay.clone_from(&self.relay);
        overrides.machines = self.machines.map(Into::into);
        overrides.queue = self.queue.map(Into::into);
    }
}

pub fn run(config: Config) -> ExitCode {
    bear_during_start();
    match App::build(config).and_then(App::serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let exit = match error {
                AppError::Boot(_) => Exit::BootFailed,
                AppError::Service(ServiceError::NoRelay) => Exit::Usage,
                _ => Exit::ExecutorFailed,
            };
            terminal::complain(&error, exit)
        }
    }
}
