//! The agent at work: everything put together, from the first lock to the last flush.

mod clearing;
mod control;
mod http;
pub mod metrics;
mod notify;
mod signals;
mod status;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::commands::executor::Executor;
use crate::commands::milestone::{Milestone, NoObserver, Observer, Trace};
use crate::commands::policy::Policy;
use crate::commands::watched::Watched;
use crate::commands::{Clock, Commands, Endpoint, Parts, RecoveryError};
use crate::config::RunConfig;
use crate::confine::InForce;
use crate::degraded::DegradedMode;
use crate::evidence::{EvidenceStore, Retention};
use crate::keyholder::{KeyHolder, KeyHolderError};
use crate::relay::{
    ConnectError, Connector, ConnectorConfig, FrameBound, LinkConfig, LinkEnd, LinkStatus,
    ProxyError, Purpose, RelayAdapter, RelayUrl, UrlError, run_link,
};
use crate::store::{AuditLog, Journal, NonceStore, StateDir, StateDirError, StoreError};
use metrics::Metrics;
use protocol::code::ErrorCode;
use protocol::keyring::KeyRing;
use protocol::timestamp::Timestamp;

pub use clearing::ClearAnswer;
pub use control::{ControlError, ask, ask_to_clear};
pub use signals::bear_during_start;
pub use status::Status;

use signals::{Asked, Signals};

/// Time between two removals of old commands from the journal.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
/// How long the journal remembers a command. Its id cannot be used again until then.
const JOURNAL_KEEPS: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why the agent cannot serve, or could not any longer.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// The settings name no relay.
    #[error(
        "no relay is set: give its address with --relay, BSM_RELAY or `relay` in the configuration"
    )]
    NoRelay,
    /// The address is none.
    #[error(transparent)]
    Relay(#[from] UrlError),
    /// The environment names a proxy that is none.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The connection cannot be set up.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The process that holds the key.
    #[error(transparent)]
    KeyHolder(#[from] KeyHolderError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// A store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Commands of an earlier process.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The task that keeps the connection has failed.
    #[error("the agent failed while it kept the connection: {0}; report this as a fault")]
    Link(#[source] tokio::task::JoinError),
    /// The host gives no threads, signals or sockets.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The host's answer.
        source: io::Error,
    },
}

/// What has to be there before any thread and any machine is.
pub struct Prerequisites {
    /// Settings.
    pub config: RunConfig,
    /// Locked, so that no second agent uses it.
    pub state_dir: StateDir,
    /// Signs connection proofs.
    pub key_holder: Arc<KeyHolder>,
    /// Whether commands are refused; to be given to the sandboxes as their guard.
    pub degraded: Arc<DegradedMode>,
    /// How the connection is kept.
    pub link: LinkConfig,
    /// Tells the time.
    pub clock: Clock,
    /// What the process has given up, if it has.
    pub confinement: Option<InForce>,
}

impl Prerequisites {
    /// Locks the state directory and starts the process that holds the key. Must be called before any
    /// machine or thread exists: that process must inherit neither.
    ///
    /// # Errors
    ///
    /// No relay is set or its address is wrong, another agent uses the state directory, or the key
    /// cannot be used.
    pub fn acquire(config: RunConfig) -> Result<Self, ServiceError> {
        let relay = config.relay.as_deref().ok_or(ServiceError::NoRelay)?;
        let url = RelayUrl::parse(relay, config.allow_plain_relay)?;
        let state_dir = StateDir::open(&config.state_dir)?;
        let key_holder = Arc::new(KeyHolder::spawn(&state_dir.identity(), None)?);
        let mut link = LinkConfig::new(url, env!("CARGO_PKG_VERSION"));
        link.frame_bound = FrameBound::new(config.frame_bytes);
        let degraded = Arc::new(DegradedMode::open(state_dir.path()));
        let clock: Clock = Arc::new(Timestamp::now);
        let confinement = None;
        Ok(Self { config, state_dir, key_holder, degraded, link, clock, confinement })
    }

    /// Serves the relay until the process is told to stop.
    pub fn serve(
        self,
        executor: Arc<dyn Executor>,
        observer: Option<Box<dyn Observer>>,
    ) -> Result<(), ServiceError> {
        let blocking = executor.capacity().saturating_add(64);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("agent")
            .max_blocking_threads(blocking)
            .build()
            .map_err(|source| ServiceError::Host { what: "start threads", source })?;
        let served = runtime.block_on(self.run(executor, observer));
        runtime.shutdown_timeout(Duration::from_secs(2));
        served
    }

    async fn run(
        self,
        executor: Arc<dyn Executor>,
        observer: Option<Box<dyn Observer>>,
    ) -> Result<(), ServiceError> {
        let begun = Instant::now();
        // Before the stores are opened and checked, which takes long.
        let mut signals = Signals::new()
            .map_err(|source| ServiceError::Host { what: "wait for signals", source })?;
        let metrics = Arc::new(Metrics::new());
        let commands = self.commands(executor, &metrics, observer).await?;
        let connector = Arc::new(Connector::new(ConnectorConfig::from_environment(
            self.config.ca_file.clone(),
        )?)?);

        let (stop, stopped) = watch::channel(false);
        let (link_status, link_seen) = watch::channel(LinkStatus::Connecting);
        let public = self.key_holder.public();
        let view = status::StatusSource {
            begun,
            relay: self.link.url.full(Purpose::Session),
            public_key: public.public_key,
            commands: Arc::clone(&commands),
            link: link_seen,
            metrics,
            confinement: self.confinement.clone(),
        };
        let view = Arc::new(view);
        control::listen(&self.state_dir.control_socket(), Arc::clone(&view))?;
        if let Some(address) = self.config.metrics_listen {
            http::listen(address, Arc::clone(&view)).await?;
        }
        // Only now: an address that is taken has to be known before the relay sends commands.
        let mut link = tokio::spawn(run_link(
            self.link.clone(),
            connector,
            Arc::clone(&self.key_holder),
            RelayAdapter::new(Arc::clone(&commands)),
            stopped,
            link_status,
        ));
        let minder = Arc::clone(&commands);
        tokio::spawn(async move { minder.watch_kill_switch().await });
        let minder = Arc::clone(&commands);
        tokio::spawn(async move { minder.watch_incidents().await });
        let pruner = Arc::clone(&commands);
        tokio::spawn(async move { prune(&pruner).await });
        commands.note_in_audit("AgentStarted");
        info!(
            endpoint = public.endpoint_id,
            relay = self.link.url.full(Purpose::Session),
            "serving"
        );
        notify::ready();
        tokio::spawn(notify::keep_watchdog_calm(Arc::clone(&view)));

        tokio::select! {
            () = until_stopped(&mut signals, &commands) => {}
            end = &mut link => {
                // The service manager starts the agent again, and with it the process with the key.
                commands.drain(Duration::ZERO).await;
                return after_link(end);
            }
        }

        info!("stopping");
        notify::stopping();
        let orderly = async {
            commands.drain(self.config.stop_patience).await;
            // Only now: the results of what was in flight go out first.
            let _ = stop.send(true);
            if tokio::time::timeout(Duration::from_secs(10), link).await.is_err() {
                warn!("the connection did not close in time");
            }
        };
        tokio::select! {
            () = orderly => {}
            () = signals.stop() => warn!("told to stop again: what is in flight is not waited for"),
        }
        commands.note_in_audit("AgentStopped");
        if let Err(error) = commands.audit().flush().await {
            error!(%error, "the last audit entries are lost");
        }
        Ok(())
    }

    async fn commands(
        &self,
        executor: Arc<dyn Executor>,
        metrics: &Arc<Metrics>,
        observer: Option<Box<dyn Observer>>,
    ) -> Result<Arc<Commands>, ServiceError> {
        let config = &self.config;
        let public = self.key_holder.public();
        let retention = Retention { bytes: config.evidence_bytes, age: config.evidence_age };
        let observer = observer.unwrap_or_else(|| Box::new(NoObserver));
        let parts = Parts {
            endpoint: Endpoint {
                endpoint_id: public.endpoint_id.clone(),
                tenant_id: public.tenant_id.clone(),
            },
            keys: Watched::required(&config.keys_file, |text| {
                KeyRing::from_toml(text).map_err(|error| error.to_string())
            }),
            policy: policy(config),
            kill_switch: config.kill_switch.clone(),
            nonces: nonces(config, &self.state_dir.nonces())?,
            journal: Journal::open(&self.state_dir.journal())?,
            degraded: Arc::clone(&self.degraded),
            audit: AuditLog::open(&self.state_dir.audit())?,
            evidence: EvidenceStore::new(self.state_dir.evidence()?, retention, executor.image()),
            executor,
            frame_bytes: config.frame_bytes,
            observer: Box::new(Both { metrics: Arc::clone(metrics), other: observer }),
            clock: Arc::clone(&self.clock),
        };
        Ok(Commands::start(parts).await?)
    }
}

/// A policy that the settings name has to be there: a mistyped path must not mean "all is allowed".
fn policy(config: &RunConfig) -> Watched<Policy> {
    let parse = |text: &str| Policy::parse(text).map_err(|error| error.to_string());
    if config.policy_named {
        Watched::required(&config.policy_file, parse)
    } else {
        Watched::optional(&config.policy_file, Policy::allow_all(), parse)
    }
}

/// What the end of the link means for the agent, which was not told to stop.
fn after_link(end: Result<LinkEnd, tokio::task::JoinError>) -> Result<(), ServiceError> {
    match end {
        Ok(LinkEnd::KeyHolderLost(error)) => Err(error.into()),
        Ok(LinkEnd::Stopped) => Ok(()),
        Err(failed) => Err(ServiceError::Link(failed)),
    }
}

fn nonces(config: &RunConfig, path: &Path) -> Result<NonceStore, StoreError> {
    if config.allow_volatile_state {
        warn!("the state may be lost when the machine restarts: use this for trials only");
        return NonceStore::open_anywhere(path, config.nonce_capacity);
    }
    NonceStore::open(path, config.nonce_capacity)
}

/// Until a signal ends it. SIGHUP has keys and policy read again.
async fn until_stopped(signals: &mut Signals, commands: &Commands) {
    while signals.next().await == Asked::Reload {
        info!("reading keys and policy again");
        commands.reload();
    }
}

async fn prune(commands: &Commands) {
    loop {
        commands.sweep_evidence().await;
        tokio::time::sleep(PRUNE_EVERY).await;
        let keeps = i64::try_from(JOURNAL_KEEPS.as_millis()).unwrap_or(i64::MAX);
        let before = Timestamp::from_millis(Timestamp::now().millis().saturating_sub(keeps));
        if let Err(error) = commands.journal().prune(before).await {
            warn!(%error, "old commands stay in the journal");
        }
    }
}

/// Passes milestones on to the metrics and to one more observer.
struct Both {
    metrics: Arc<Metrics>,
    other: Box<dyn Observer>,
}

impl Observer for Both {
    fn reached(&self, command_id: &str, milestone: Milestone) {
        self.other.reached(command_id, milestone);
    }

    fn finished(&self, trace: &Trace) {
        self.metrics.finished(trace);
        self.other.finished(trace);
    }

    fn refused(&self, code: ErrorCode) {
        self.metrics.refused(code);
        self.other.refused(code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_link_that_panics_is_an_error_and_one_that_was_stopped_is_none() {
        let failed = tokio::spawn(async { panic!("as told") }).await;
        assert!(matches!(after_link(failed), Err(ServiceError::Link(_))));
        assert!(after_link(Ok(LinkEnd::Stopped)).is_ok());
    }
}
