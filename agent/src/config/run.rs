//! Settings of an agent that serves a relay.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::range::{self, Allowed, Limits};
use super::{ConfigError, Origin};
use protocol::message::DEFAULT_FRAME_BYTES;

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
    /// What the owner of this machine allows.
    pub policy_file: PathBuf,
    /// Whether the settings name that file. Then it has to be there; without it, and unnamed,
    /// everything is allowed.
    pub policy_named: bool,
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
    /// Longest frame to the relay, in bytes.
    pub frame_bytes: usize,
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
    stop_patience_s: Option<i64>,
    frame_kib: Option<i64>,
    nonce_capacity: Option<i64>,
    evidence_mib: Option<i64>,
    evidence_days: Option<i64>,
    /// The file that the table is in.
    #[serde(skip)]
    path: PathBuf,
}

impl RunForm {
    /// Takes the table as one of the file `path`: relative paths start at its directory `base`.
    pub(super) fn of_file(mut self, path: &Path, base: &Path) -> Self {
        path.clone_into(&mut self.path);
        let paths =
            [&mut self.ca_file, &mut self.keys_file, &mut self.policy_file, &mut self.kill_switch];
        for path in paths.into_iter().flatten() {
            *path = base.join(&*path);
        }
        self
    }

    /// The number of `key`, or `default` where the table has none.
    fn number(
        &self,
        key: &'static str,
        value: Option<i64>,
        default: u64,
        limits: Limits,
    ) -> Result<u64, ConfigError> {
        let Some(value) = value else { return Ok(default) };
        let origin = || Origin::File { path: self.path.clone(), key };
        u64::try_from(value).ok().filter(|_| limits.contains(value)).ok_or_else(|| {
            ConfigError::OutOfRange { what: key, value, origin: origin(), allowed: Allowed(limits) }
        })
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
        let stop_patience_s =
            form.number("stop_patience_s", form.stop_patience_s, 20, range::STOP_PATIENCE_S)?;
        let frame_kib = form.number(
            "frame_kib",
            form.frame_kib,
            DEFAULT_FRAME_BYTES as u64 >> 10,
            range::FRAME_KIB,
        )?;
        let nonces = form.number(
            "nonce_capacity",
            form.nonce_capacity,
            range::NONCE_CAPACITY.min.cast_unsigned(),
            range::NONCE_CAPACITY,
        )?;
        let evidence_mib =
            form.number("evidence_mib", form.evidence_mib, 256, range::EVIDENCE_MIB)?;
        let evidence_days =
            form.number("evidence_days", form.evidence_days, 30, range::EVIDENCE_DAYS)?;
        let in_state = |path: Option<PathBuf>, name| path.unwrap_or_else(|| state_dir.join(name));
        Ok(Self {
            relay,
            machines,
            queue,
            ca_file: form.ca_file,
            keys_file: in_state(form.keys_file, "keys.toml"),
            policy_named: form.policy_file.is_some(),
            policy_file: in_state(form.policy_file, "policy.toml"),
            kill_switch: in_state(form.kill_switch, "KILL"),
            allow_plain_relay: form.allow_plain_relay,
            allow_volatile_state: form.allow_volatile_state,
            metrics_listen: form.metrics_listen,
            stop_patience: Duration::from_secs(stop_patience_s),
            // At most 1024 KiB.
            frame_bytes: (frame_kib << 10) as usize,
            // At most 32 bits.
            nonce_capacity: nonces as usize,
            evidence_bytes: evidence_mib << 20,
            evidence_age: Duration::from_secs(evidence_days * 24 * 3600),
            state_dir,
        })
    }
}
