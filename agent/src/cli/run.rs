//! `brainstorm-agent run`

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use thiserror::Error;
use tracing::{info, warn};

use super::{Exit, terminal};
use crate::config::Config;
use crate::dispatch::executor::{PoolExecutor, Tools};
use crate::sandbox::pool::{KvmSource, OnFault, Pool, PoolConfig, PoolError};
use crate::sandbox::{ImageError, KvmSandbox, Sandbox, SandboxConfig, SandboxError};
use crate::service::{Groundwork, ServiceError};
use guest::registry::RegistryError;

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

/// Why the agent does not run.
#[derive(Debug, Error)]
enum RunError {
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(
        "the image has no manifest.json, so its tools are unknown: build an image with `cargo \
         xtask image`"
    )]
    NoManifest,
    #[error(transparent)]
    Tools(#[from] RegistryError),
    #[error(transparent)]
    Boot(SandboxError),
    #[error(transparent)]
    Pool(#[from] PoolError),
}

pub fn run(config: Config) -> ExitCode {
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let exit = match error {
                RunError::Boot(_) => Exit::BootFailed,
                RunError::Service(ServiceError::NoRelay) => Exit::Usage,
                _ => Exit::ExecutorFailed,
            };
            terminal::complain(&error, exit)
        }
    }
}

fn serve(config: Config) -> Result<(), RunError> {
    let (machines, queue) = (config.run.machines, config.run.queue);
    let groundwork = Groundwork::lay(config.run)?;
    let manifest = config.sandbox.image.manifest()?.ok_or(RunError::NoManifest)?;
    let tools = Tools::new(&manifest, &config.sandbox.enable_tools)?;
    // A result is only worth something with a verified reset.
    let sandbox = KvmSandbox::new(SandboxConfig { verify: true, ..config.sandbox });
    sandbox.guard_with(Arc::clone(&groundwork.degraded) as _);
    let boot = sandbox.boot().map_err(RunError::Boot)?;
    info!(took_ms = boot.total.as_millis(), "the first machine is ready");
    let source = KvmSource::new(sandbox).map_err(RunError::Boot)?;
    // What reached one machine may have reached others.
    let on_fault = OnFault::Halt;
    let pool = Pool::start(source, PoolConfig { queue, on_fault, ..PoolConfig::new(machines) })?;
    let warm = pool.wait_until_warm(Duration::from_secs(30))?;
    if warm < machines {
        warn!(warm, wanted = machines, "not all machines could be made");
    }
    let executor = Arc::new(PoolExecutor::new(pool, tools));
    Ok(groundwork.serve(executor, None)?)
}
