//! Settings: flags win over environment variables, those over the configuration file, that over
//! defaults. Every value remembers where it came from, so that an error can say what to change.

mod layer;
mod range;
mod run;

pub use layer::{ConfigFile, Environment};
pub use range::{Allowed, Limits};
pub use run::RunConfig;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use sandbox::{Backend, ImageSource, KvmConfig, Resets, SandboxSpec};

/// Read when it exists and no other file is named.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/brainstorm-agent/config.toml";
/// Where an installed image is.
pub const INSTALLED_IMAGE_DIR: &str = "/usr/lib/brainstorm-agent/image";
/// Where a checkout builds its image; used when no image is installed.
pub const CHECKOUT_IMAGE_DIR: &str = "target/image";
/// RAM of a machine, in MiB, unless set.
pub const DEFAULT_MEMORY_MIB: u32 = 128;

/// Values as one source gives them; what is `None` is left to the next source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Directory with `vmlinux`, `rootfs.ext4` and `manifest.json`.
    pub image_dir: Option<PathBuf>,
    /// A kernel in place of the image's.
    pub kernel: Option<PathBuf>,
    /// A root file system in place of the image's.
    pub rootfs: Option<PathBuf>,
    /// Number of vCPUs.
    pub vcpus: Option<i64>,
    /// RAM in MiB.
    pub memory_mib: Option<i64>,
    /// vsock address of the guest.
    pub cid: Option<i64>,
    /// vsock port of the guest program.
    pub guest_port: Option<i64>,
    /// Tools to enable that the image leaves disabled.
    pub enable_tools: Option<Vec<String>>,
    /// Where the agent keeps its identity and its stores.
    pub state_dir: Option<PathBuf>,
    /// Address of the relay's WebSocket.
    pub relay: Option<String>,
    /// Machines of the pool.
    pub machines: Option<i64>,
    /// Commands that may wait for a machine.
    pub queue: Option<i64>,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A command line flag.
    Flag(&'static str),
    /// An environment variable.
    Variable(&'static str),
    /// A key of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
    },
    /// No source sets it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::File { path, key } => write!(f, "key `{key}` in {}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path} is not a valid configuration: {detail}", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and what was expected there.
        detail: String,
    },
    /// An environment variable does not hold a number.
    #[error("environment variable {name} is {value:?}: give a whole number, {allowed}")]
    NotANumber {
        /// The variable.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What it may hold.
        allowed: Allowed,
    },
    /// A value outside its range.
    #[error("{what} is {value} ({origin}): give {allowed}")]
    OutOfRange {
        /// The setting, in words.
        what: &'static str,
        /// Value of the setting.
        value: i64,
        /// Where it came from.
        origin: Origin,
        /// What it may be.
        allowed: Allowed,
    },
    /// A path that is empty.
    #[error("{what} is empty ({origin}): give a path or remove the setting")]
    EmptyPath {
        /// The setting, in words.
        what: &'static str,
        /// Where it came from.
        origin: Origin,
    },
    /// The address metrics would be served at is not this machine's own.
    #[error(
        "metrics_listen is {address}: give a loopback address such as 127.0.0.1:9464, because \
         whoever reaches it can read what this agent does"
    )]
    MetricsNotLocal {
        /// The address.
        address: std::net::SocketAddr,
    },
    /// A tool name that cannot stand on a kernel command line.
    #[error(
        "tool name {name:?} ({origin}): give names of letters, digits, `-`, `_` and `.` as listed \
         by `brainstorm-agent tools`"
    )]
    ToolName {
        /// The name.
        name: String,
        /// Where it came from.
        origin: Origin,
    },
}

/// Checked settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What the sandbox is to be.
    pub sandbox: SandboxSpec,
    /// What only a KVM machine is told.
    pub kvm: KvmConfig,
    /// How the agent serves a relay.
    pub run: RunConfig,
}

impl Config {
    /// Reads all sources. `file`: a file named on the command line, which then has to exist.
    pub fn load(flags: Overrides, file: Option<&Path>) -> Result<Self, ConfigError> {
        let environment = Environment::read(|name| std::env::var_os(name))?;
        let file = match file {
            Some(path) => Some(ConfigFile::read(path)?),
            None => ConfigFile::read_if_present(Path::new(DEFAULT_CONFIG_FILE))?,
        };
        Self::resolve(flags, environment, file, default_image_dir())
    }

    /// Merges the sources and checks the result.
    pub fn resolve(
        flags: Overrides,
        environment: Environment,
        file: Option<ConfigFile>,
        default_image_dir: PathBuf,
    ) -> Result<Self, ConfigError> {
        let layers = layer::Layers { flags, environment, file };
        let image_dir = layers.path(&layer::IMAGE_DIR)?.unwrap_or(default_image_dir);
        let image = ImageSource {
            dir: image_dir,
            kernel: layers.path(&layer::KERNEL)?,
            rootfs: layers.path(&layer::ROOTFS)?,
        };
        Ok(Self {
            sandbox: SandboxSpec {
                image,
                vcpus: layers.number(&layer::VCPUS)?.unwrap_or(1),
                memory_mib: layers.number(&layer::MEMORY)?.unwrap_or(DEFAULT_MEMORY_MIB),
                enable_tools: layers.tools()?,
                resets: Resets::Unverified,
            },
            kvm: KvmConfig {
                guest_cid: layers.number(&layer::CID)?.unwrap_or(KvmConfig::default().guest_cid),
                guest_port: layers.number(&layer::PORT)?,
                ..KvmConfig::default()
            },
            run: layers.run()?,
        })
    }

    /// The backend of this name with its settings; `None` for a name that is not in
    /// [`BACKEND_NAMES`](sandbox::BACKEND_NAMES).
    pub fn backend(&self, name: &str) -> Option<Arc<dyn Backend>> {
        (name == KvmConfig::NAME).then(|| Arc::new(self.kvm.clone()) as _)
    }
}

/// The installed image, or a checkout's own when none is installed.
fn default_image_dir() -> PathBuf {
    let installed = Path::new(INSTALLED_IMAGE_DIR);
    let checkout = Path::new(CHECKOUT_IMAGE_DIR);
    if !installed.exists() && checkout.exists() { checkout } else { installed }.to_owned()
}

#[cfg(test)]
mod tests;
