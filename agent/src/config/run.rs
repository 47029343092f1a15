//! Settings of an agent that serves a relay.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::ConfigError;

/// How the agent serves a relay. Paths that are not set lie in the state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunConfig {
    /// Identity, stores, evidence and the control socket.
    pub state_dir: PathBuf,
    /// Address of the relay's WebSocket.
    pub relay: Option<String>,
    /// Machines of the pool.
    pub machines: usize,
    /// Commands that may wait for a machine.
    pub queue: usize,
    /// Certificates to trust beside the host's own.
    pub ca_file: Option<PathBuf>,
    /// Keys that may sign commands.
    pub keys_file: PathBuf,
    /// What the owner of this machine allows. Everything, when there is no such file.
    pub policy_file: PathBuf,
    /// While this file exists, no command runs.
    pub kill_switch: PathBuf,
    /// Speak to a relay without TLS, and not only on this machine.
    pub allow_plain_relay: bool,
    /// Keep the state on a file system that forgets, as trials do. An envelope may then be accepted
    /// once more after the machine restarts.
    pub allow_volatile_state: bool,
    /// Loopback address to serve metrics at over HTTP.
    pub metrics_listen: Option<SocketAddr>,
    /// How long commands in flight may go on when the agent is told to stop.
    pub stop_patience: Duration,
    /// How many nonces can be live at once.
    pub nonce_capacity: usize,
    /// Most bytes of kept outputs.
    pub evidence_bytes: u64,
    /// Greatest age of kept outputs.
    pub evidence_age: Duration,
}

/// Table `[run]` of the configuration file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunForm {
    ca_file: Option<PathBuf>,
    keys_file: Option<PathBuf>,
    policy_file: Option<PathBuf>,
    kill_switch: Option<PathBuf>,
    #[serde(default)]
    allow_plain_relay: bool,
    #[serde(default)]
    allow_volatile_state: bool,
    metrics_listen: Option<SocketAddr>,
    stop_patience_s: Option<u16>,
    nonce_capacity: Option<u32>,
    evidence_mib: Option<u32>,
    evidence_days: Option<u16>,
}

/// Fewest nonces a store has to have room for.
const MIN_NONCES: u32 = 100_000;

impl RunForm {
    /// Relative paths start at `base`.
    pub(super) fn based_at(mut self, base: &Path) -> Self {
        let paths =
            [&mut self.ca_file, &mut self.keys_file, &mut self.policy_file, &mut self.kill_switch];
        for path in paths.into_iter().flatten() {
            *path = base.join(&*path);
        }
        self
    }
}

impl RunConfig {
    /// Fills in what the table leaves out, and checks the rest.
    pub(super) fn new(
        form: RunForm,
        state_dir: PathBuf,
        relay: Option<String>,
        machines: usize,
        queue: usize,
    ) -> Result<Self, ConfigError> {
        if let Some(address) = form.metrics_listen.filter(|a| !a.ip().is_loopback()) {
            return Err(ConfigError::MetricsNotLocal { address });
        }
        let in_state = |path: Option<PathBuf>, name| path.unwrap_or_else(|| state_dir.join(name));
        Ok(Self {
            relay,
            machines,
            queue,
            ca_file: form.ca_file,
            keys_file: in_state(form.keys_file, "keys.toml"),
            policy_file: in_state(form.policy_file, "policy.toml"),
            kill_switch: in_state(form.kill_switch, "KILL"),
            allow_plain_relay: form.allow_plain_relay,
            allow_volatile_state: form.allow_volatile_state,
            metrics_listen: form.metrics_listen,
            stop_patience: Duration::from_secs(form.stop_patience_s.unwrap_or(20).into()),
            nonce_capacity: form.nonce_capacity.unwrap_or(MIN_NONCES).max(MIN_NONCES) as usize,
            evidence_bytes: u64::from(form.evidence_mib.unwrap_or(256)) << 20,
            evidence_age: Duration::from_secs(
                u64::from(form.evidence_days.unwrap_or(30)) * 24 * 3600,
            ),
            state_dir,
        })
    }
}
