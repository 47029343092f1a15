//! The composition root: builds the agent from its settings, with all of its parts, and runs it.

mod machines;

use std::sync::Arc;
use std::time::Duration;

use guest::registry::RegistryError;
use sandbox::pool::{OnFault, Pool, PoolConfig, PoolError};
use sandbox::{ImageError, SandboxError};
use thiserror::Error;
use tracing::warn;

use crate::baselines::StartError;
use crate::commands::executor::{Executor, PoolExecutor, Tools};
use crate::config::Config;
use crate::confine::{ConfineError, Files, confine};
use crate::service::{Prerequisites, ServiceError};
use crate::store::directory_of;

/// Time between two looks at a machine that has nothing to do. Each look takes about a millisecond.
const SCRUB_EVERY: Duration = Duration::from_millis(250);
/// Longest time until the first machines are ready.
const WARM_UP: Duration = Duration::from_secs(30);

/// Why the agent does not run.
#[derive(Debug, Error)]
pub enum AppError {
    /// The relay, the stores or the connection.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The process cannot give up its rights.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// The image cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The image does not say which tools it has.
    #[error(
        "the image has no manifest.json, so its tools are unknown: build an image with `cargo \
         xtask image`"
    )]
    NoManifest,
    /// The tools of the image, or those that the settings enable.
    #[error(transparent)]
    Tools(#[from] RegistryError),
    /// The first machine does not boot.
    #[error(transparent)]
    Boot(SandboxError),
    /// The first machine is not as it was installed.
    #[error(transparent)]
    Baselines(#[from] StartError),
    /// The pool has no machine.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// The agent, ready to serve.
pub struct App {
    prerequisites: Prerequisites,
    executor: Arc<dyn Executor>,
}

impl App {
    /// Builds the agent: locks the state directory, starts the process that holds the key, confines
    /// this process, and makes the machines. No other thread may run when this is called.
    ///
    /// # Errors
    ///
    /// A part cannot be made. When the first machine is not as it was installed, degraded mode is
    /// latched before this returns.
    pub fn build(config: Config) -> Result<Self, AppError> {
        let (wanted, queue) = (config.run.machines, config.run.queue);
        let files = files_of(&config);
        let mut prerequisites = Prerequisites::acquire(config.run)?;
        // The process that holds the key runs; nothing else has to be started.
        prerequisites.confinement = Some(confine(&files)?);
        let manifest = config.sandbox.image.manifest()?.ok_or(AppError::NoManifest)?;
        let tools = Tools::new(&manifest, &config.sandbox.enable_tools)?;
        let source = machines::machines(&prerequisites, config.sandbox, config.kvm)
            .inspect_err(|error| machines::latch_incident(&prerequisites, error))?;
        // What reached one machine may have reached others.
        let on_fault = OnFault::Halt;
        let scrub_every = Some(SCRUB_EVERY);
        let config = PoolConfig { queue, on_fault, scrub_every, ..PoolConfig::new(wanted) };
        let pool = Pool::start(source, config)?;
        let warm = pool.wait_until_warm(WARM_UP)?;
        if warm < wanted {
            warn!(warm, wanted, "not all machines could be made");
        }
        let executor = Arc::new(PoolExecutor::new(pool, tools));
        Ok(Self { prerequisites, executor })
    }

    /// Serves the relay until the process is told to stop.
    ///
    /// # Errors
    ///
    /// A store, a socket or the process that holds the key fails.
    pub fn serve(self) -> Result<(), AppError> {
        Ok(self.prerequisites.serve(self.executor, None)?)
    }
}

/// Everything the agent reads and writes while it serves. Some of these files need not exist yet.
fn files_of(config: &Config) -> Files {
    let (run, image) = (&config.run, &config.sandbox.image);
    let watched = [&run.keys_file, &run.policy_file, &run.kill_switch];
    let mut read: Vec<_> = watched.into_iter().map(|file| directory_of(file).to_owned()).collect();
    read.push(image.dir.clone());
    read.extend([&image.kernel, &image.rootfs, &run.ca_file].into_iter().flatten().cloned());
    Files { written: vec![run.state_dir.clone()], read }
}
