//! `brainstorm-agent run`

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use thiserror::Error;
use tracing::{info, warn};

use super::{Exit, terminal};
use crate::baselines::machine::restore_installed;
use crate::baselines::{self, BaselineStore, OtherwiseGo, StartError, Started};
use crate::commands::executor::{PoolExecutor, Tools};
use crate::config::Config;
use crate::confine::{ConfineError, Files, confine, directory_of};
use crate::degraded::Record;
use crate::service::{Groundwork, ServiceError};
use crate::store::note::{note_in_audit, note_with_code};
use guest::registry::RegistryError;
use sandbox::KvmSource;
use sandbox::pool::{OnFault, Pool, PoolConfig, PoolError};
use sandbox::{
    Cause, ForensicDump, ImageError, Incident, IncidentHandler, KvmSandbox, Sandbox, SandboxConfig,
    SandboxError,
};
use serde_json::json;
use vmm::IntegrityPlan;

/// How often a machine with nothing to do is looked at for a millisecond.
const SCRUB_EVERY: Duration = Duration::from_millis(250);

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
    Confine(#[from] ConfineError),
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
    Baselines(#[from] StartError),
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

/// The machines: restored from what is installed and compared with it, also when they are renewed; or
/// booted where nothing is installed.
fn machines(groundwork: &Groundwork, config: SandboxConfig) -> Result<KvmSource, RunError> {
    let (begun, integrity) = (Instant::now(), config.integrity);
    let guard = &groundwork.degraded;
    let store = BaselineStore::new(groundwork.state_dir.path(), &*groundwork.key_holder);
    let started = baselines::start(&store, |record, otherwise| {
        // Where there is something to go back to, that is what follows.
        let nowhere = otherwise == OtherwiseGo::Nowhere;
        let guard = nowhere.then(|| Arc::clone(guard) as Arc<dyn IncidentHandler>);
        Ok((restore_installed(&config, record, guard)?, record.clone()))
    })?;
    let Some(Started { made: (sandbox, record), slot, rolled_back }) = started else {
        info!("nothing is installed: resets are compared with what is measured now");
        // A result is only worth something with a verified reset.
        let sandbox = KvmSandbox::new(SandboxConfig { verify: true, ..config });
        sandbox.set_incident_handler(Arc::clone(guard) as _);
        let boot = sandbox.boot().map_err(RunError::Boot)?;
        info!(took_ms = boot.total.as_millis(), "the first machine is ready");
        tell_rounds(&sandbox, integrity);
        return KvmSource::new(sandbox).map_err(RunError::Boot);
    };
    sandbox.set_incident_handler(Arc::clone(guard) as _);
    if let Some(reason) = rolled_back {
        let payload = json!({"slot": slot.name(), "reason": reason});
        if let Err(error) = note_in_audit(&groundwork.state_dir, "BaselinesRolledBack", &payload) {
            warn!(%error, "the audit log does not say that the agent went back to another slot");
        }
    }
    let took_ms = begun.elapsed().as_millis();
    tell_rounds(&sandbox, integrity);
    info!(slot = slot.name(), took_ms, "the first machine is as it was installed");
    let guard = Arc::clone(guard);
    let origin = move || {
        restore_installed(&config, &record, Some(Arc::clone(&guard) as _)).map_err(|error| {
            SandboxError::BootFailed { reason: error.to_string(), console: Vec::new() }
        })
    };
    Ok(KvmSource::new(sandbox).map_err(RunError::Boot)?.renewed_by(Box::new(origin)))
}

/// Whatever may have been changed stays refused, also when the next start finds nothing wrong: the
/// latch is on disk, and the audit log says why.
fn sound_alarm(groundwork: &Groundwork, error: &RunError) {
    let degraded = &groundwork.degraded;
    let mut news = degraded.take_news();
    if let RunError::Baselines(error) = error
        && let Some(reason) = error.alarm()
        && news.is_empty()
    {
        let (at, cause) = (SystemTime::now(), Cause::NotAsInstalled(reason));
        degraded.trip(&Incident { at, command_id: None, cause, dump: ForensicDump::default() });
        news = degraded.take_news();
    }
    for record in news {
        let noted = serde_json::to_value(&*record).map_err(|error| error.to_string());
        let noted = noted.and_then(|payload| {
            let (dir, code) = (&groundwork.state_dir, Some(record.code.as_str()));
            note_with_code(dir, Record::KIND, code, &payload).map_err(|error| error.to_string())
        });
        if let Err(error) = noted {
            warn!(error, "an incident is not in the audit log");
        }
    }
}

/// Says in how many resets everything that commands leave untouched has been read again.
fn tell_rounds(sandbox: &KvmSandbox, integrity: IntegrityPlan) {
    if let Some(golden) = sandbox.golden() {
        let (disk, memory) = integrity.resets_for_all(&golden);
        info!(disk, memory, "resets until all of the disk, and all of memory, has been read again");
    }
}

/// Everything the agent reads and writes while it serves. Some of it need not exist yet.
fn files_of(config: &Config) -> Files {
    let (run, image) = (&config.run, &config.sandbox.image);
    let watched = [&run.keys_file, &run.policy_file, &run.kill_switch];
    let mut read: Vec<_> = watched.into_iter().map(|file| directory_of(file)).collect();
    read.push(image.dir.clone());
    read.extend([&image.kernel, &image.rootfs, &run.ca_file].into_iter().flatten().cloned());
    Files { written: vec![run.state_dir.clone()], read }
}

fn serve(config: Config) -> Result<(), RunError> {
    let (wanted, queue) = (config.run.machines, config.run.queue);
    let files = files_of(&config);
    let mut groundwork = Groundwork::lay(config.run)?;
    // The process that holds the key runs; nothing else has to be started.
    groundwork.confinement = Some(confine(&files)?);
    let manifest = config.sandbox.image.manifest()?.ok_or(RunError::NoManifest)?;
    let tools = Tools::new(&manifest, &config.sandbox.enable_tools)?;
    let source = machines(&groundwork, config.sandbox)
        .inspect_err(|error| sound_alarm(&groundwork, error))?;
    // What reached one machine may have reached others.
    let on_fault = OnFault::Halt;
    let scrub_every = Some(SCRUB_EVERY);
    let config = PoolConfig { queue, on_fault, scrub_every, ..PoolConfig::new(wanted) };
    let pool = Pool::start(source, config)?;
    let warm = pool.wait_until_warm(Duration::from_secs(30))?;
    if warm < wanted {
        warn!(warm, wanted, "not all machines could be made");
    }
    let executor = Arc::new(PoolExecutor::new(pool, tools));
    Ok(groundwork.serve(executor, None)?)
}
