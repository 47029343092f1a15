//! The sources of settings, and which of them wins.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::range::{self, Allowed, Limits};
use super::run::{RunConfig, RunForm};
use super::{ConfigError, Origin, Overrides};
use crate::store::StateDir;

/// How one setting is called in each source, and how to get at it.
pub struct Setting<T> {
    /// In words.
    what: &'static str,
    flag: &'static str,
    variable: &'static str,
    key: &'static str,
    get: fn(&Overrides) -> Option<&T>,
}

/// A number and its range.
pub struct Number {
    setting: Setting<i64>,
    limits: Limits,
}

pub const IMAGE_DIR: Setting<PathBuf> = Setting {
    what: "image directory",
    flag: "--image-dir",
    variable: "BSM_IMAGE_DIR",
    key: "image_dir",
    get: |o| o.image_dir.as_ref(),
};

pub const KERNEL: Setting<PathBuf> = Setting {
    what: "kernel",
    flag: "--kernel",
    variable: "BSM_KERNEL",
    key: "kernel",
    get: |o| o.kernel.as_ref(),
};

pub const ROOTFS: Setting<PathBuf> = Setting {
    what: "root file system",
    flag: "--rootfs",
    variable: "BSM_ROOTFS",
    key: "rootfs",
    get: |o| o.rootfs.as_ref(),
};

pub const VCPUS: Number = Number {
    setting: Setting {
        what: "number of vCPUs",
        flag: "--vcpus",
        variable: "BSM_VCPUS",
        key: "vcpus",
        get: |o| o.vcpus.as_ref(),
    },
    limits: range::VCPUS,
};

pub const MEMORY: Number = Number {
    setting: Setting {
        what: "memory in MiB",
        flag: "--memory-mib",
        variable: "BSM_MEMORY_MIB",
        key: "memory_mib",
        get: |o| o.memory_mib.as_ref(),
    },
    limits: range::MEMORY_MIB,
};

pub const CID: Number = Number {
    setting: Setting {
        what: "guest CID",
        flag: "--cid",
        variable: "BSM_CID",
        key: "cid",
        get: |o| o.cid.as_ref(),
    },
    limits: range::CID,
};

pub const PORT: Number = Number {
    setting: Setting {
        what: "guest port",
        flag: "--guest-port",
        variable: "BSM_GUEST_PORT",
        key: "guest_port",
        get: |o| o.guest_port.as_ref(),
    },
    limits: range::PORT,
};

pub const ENABLE_TOOLS: Setting<Vec<String>> = Setting {
    what: "enabled tools",
    flag: "--enable-tool",
    variable: "BSM_ENABLE_TOOLS",
    key: "enable_tools",
    get: |o| o.enable_tools.as_ref(),
};

pub const STATE_DIR: Setting<PathBuf> = Setting {
    what: "state directory",
    flag: "--state-dir",
    variable: "BSM_STATE_DIR",
    key: "state_dir",
    get: |o| o.state_dir.as_ref(),
};

pub const RELAY: Setting<String> = Setting {
    what: "relay",
    flag: "--relay",
    variable: "BSM_RELAY",
    key: "relay",
    get: |o| o.relay.as_ref(),
};

pub const MACHINES: Number = Number {
    setting: Setting {
        what: "number of machines",
        flag: "--machines",
        variable: "BSM_MACHINES",
        key: "machines",
        get: |o| o.machines.as_ref(),
    },
    limits: range::MACHINES,
};

pub const QUEUE: Number = Number {
    setting: Setting {
        what: "length of the queue",
        flag: "--queue",
        variable: "BSM_QUEUE",
        key: "queue",
        get: |o| o.queue.as_ref(),
    },
    limits: range::QUEUE,
};

/// What the environment says.
#[derive(Debug, Clone, Default)]
pub struct Environment(Overrides);

impl Environment {
    /// Reads the agent's variables through `lookup`. An empty variable counts as not set.
    pub fn read(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let value = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let path = |setting: &Setting<PathBuf>| value(setting.variable).map(PathBuf::from);
        let number = |number: &Number| {
            let name = number.setting.variable;
            let Some(value) = value(name) else { return Ok(None) };
            value.to_str().and_then(|text| text.trim().parse().ok()).map(Some).ok_or_else(|| {
                ConfigError::NotANumber {
                    name,
                    value: value.to_string_lossy().into_owned(),
                    allowed: Allowed(number.limits),
                }
            })
        };
        Ok(Self(Overrides {
            image_dir: path(&IMAGE_DIR),
            kernel: path(&KERNEL),
            rootfs: path(&ROOTFS),
            vcpus: number(&VCPUS)?,
            memory_mib: number(&MEMORY)?,
            cid: number(&CID)?,
            guest_port: number(&PORT)?,
            enable_tools: value(ENABLE_TOOLS.variable).map(|list| {
                let list = list.to_string_lossy();
                list.split(',').map(|name| name.trim().to_owned()).collect()
            }),
            state_dir: path(&STATE_DIR),
            relay: value(RELAY.variable).map(|relay| relay.to_string_lossy().into_owned()),
            machines: number(&MACHINES)?,
            queue: number(&QUEUE)?,
        }))
    }
}

/// What the configuration file says.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    path: PathBuf,
    values: Overrides,
    run: RunForm,
}

/// The file's form: TOML, keys as below, no others.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    image_dir: Option<PathBuf>,
    kernel: Option<PathBuf>,
    rootfs: Option<PathBuf>,
    vcpus: Option<i64>,
    memory_mib: Option<i64>,
    cid: Option<i64>,
    guest_port: Option<i64>,
    enable_tools: Option<Vec<String>>,
    state_dir: Option<PathBuf>,
    relay: Option<String>,
    machines: Option<i64>,
    queue: Option<i64>,
    #[serde(default)]
    run: RunForm,
}

impl ConfigFile {
    /// Reads a file that has to exist.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    /// Reads a file that may be absent.
    pub fn read_if_present(path: &Path) -> Result<Option<Self>, ConfigError> {
        match Self::read(path) {
            Ok(file) => Ok(Some(file)),
            Err(ConfigError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Understands the text of the file `path`. Relative paths in it start at its directory.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let form: FileForm = toml::from_str(text)
            .map_err(|e| ConfigError::Parse { path: path.to_owned(), detail: e.to_string() })?;
        let base = path.parent().unwrap_or(Path::new(""));
        let from_here = |given: Option<PathBuf>| {
            // An empty path must stay empty, so that the check finds it.
            given.map(|p| if p.as_os_str().is_empty() { p } else { base.join(p) })
        };
        Ok(Self {
            path: path.to_owned(),
            values: Overrides {
                image_dir: from_here(form.image_dir),
                kernel: from_here(form.kernel),
                rootfs: from_here(form.rootfs),
                vcpus: form.vcpus,
                memory_mib: form.memory_mib,
                cid: form.cid,
                guest_port: form.guest_port,
                enable_tools: form.enable_tools,
                state_dir: from_here(form.state_dir),
                relay: form.relay,
                machines: form.machines,
                queue: form.queue,
            },
            run: form.run.of_file(path, base),
        })
    }
}

/// All sources, the winning one first.
pub struct Layers {
    pub flags: Overrides,
    pub environment: Environment,
    pub file: Option<ConfigFile>,
}

impl Layers {
    fn find<T: Clone>(&self, setting: &Setting<T>) -> Option<(T, Origin)> {
        let get = setting.get;
        if let Some(value) = get(&self.flags) {
            return Some((value.clone(), Origin::Flag(setting.flag)));
        }
        if let Some(value) = get(&self.environment.0) {
            return Some((value.clone(), Origin::Variable(setting.variable)));
        }
        let file = self.file.as_ref()?;
        let origin = Origin::File { path: file.path.clone(), key: setting.key };
        get(&file.values).map(|value| (value.clone(), origin))
    }

    pub fn path(&self, setting: &Setting<PathBuf>) -> Result<Option<PathBuf>, ConfigError> {
        match self.find(setting) {
            Some((path, origin)) if path.as_os_str().is_empty() => {
                Err(ConfigError::EmptyPath { what: setting.what, origin })
            }
            found => Ok(found.map(|(path, _)| path)),
        }
    }

    pub fn number<T: TryFrom<i64>>(&self, number: &Number) -> Result<Option<T>, ConfigError> {
        let Some((value, origin)) = self.find(&number.setting) else { return Ok(None) };
        let checked = Some(value).filter(|value| number.limits.contains(*value));
        match checked.and_then(|value| T::try_from(value).ok()) {
            Some(value) => Ok(Some(value)),
            None => Err(ConfigError::OutOfRange {
                what: number.setting.what,
                value,
                origin,
                allowed: Allowed(number.limits),
            }),
        }
    }

    pub fn run(&self) -> Result<RunConfig, ConfigError> {
        let state_dir = self.path(&STATE_DIR)?.unwrap_or_else(|| StateDir::DEFAULT.into());
        let relay = self.find(&RELAY).map(|(relay, _)| relay);
        let machines = self.number(&MACHINES)?.unwrap_or(1);
        let queue = self.number(&QUEUE)?.unwrap_or(64);
        let form = self.file.as_ref().map(|file| file.run.clone()).unwrap_or_default();
        RunConfig::new(form, state_dir, relay, machines, queue)
    }

    pub fn tools(&self) -> Result<Vec<String>, ConfigError> {
        let Some((names, origin)) = self.find(&ENABLE_TOOLS) else { return Ok(Vec::new()) };
        match names.iter().find(|name| !is_tool_name(name)) {
            Some(name) => Err(ConfigError::ToolName { name: name.clone(), origin }),
            None => Ok(names),
        }
    }
}

/// The names travel on the kernel command line, where a space or a comma would be a separator.
fn is_tool_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=256).contains(&name.len()) && name.bytes().all(plain)
}
