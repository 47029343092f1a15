//! The tool registry: tools are data. A tool is an executable of the image, an argument template
//! and a JSON Schema of its parameters; free-form arguments do not exist.

mod argv;
mod check;
mod schema;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

pub use argv::ArgvPart;
use schema::Schema;

/// Most output a tool may keep per stream, in bytes: both streams in base64 still fit one frame.
pub const MAX_OUTPUT_BYTES: u64 = 4 << 20;
/// Longest deadline of any tool, in milliseconds.
pub const MAX_DEADLINE_MS: u64 = 600_000;
/// Most memory of any tool, in MiB: that of the largest machine.
pub const MAX_MEMORY_MIB: u64 = 8192;
/// Most processes and threads of any tool.
pub const MAX_PIDS: u64 = 1024;

/// One tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolSpec {
    /// Name, 1 to 256 characters, unique.
    pub name: String,
    /// What it does, in one line.
    pub description: String,
    /// Whether it changes anything.
    pub track: Track,
    /// Whether it may run without being enabled by configuration.
    pub enabled: bool,
    /// The command: an absolute path, then literals and parameters.
    pub argv: Vec<ArgvPart>,
    /// JSON Schema of the parameters: an object without additional properties.
    pub params: Value,
    /// What it may use.
    pub limits: Limits,
    /// How long it usually takes, in milliseconds, at most 600 000.
    pub estimated_duration_ms: u64,
}

/// Whether a tool changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Track {
    /// Reads only.
    DataProvider,
    /// May change the sandbox.
    Mutator,
}

/// What a tool may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Longest deadline, in milliseconds, 1 to 600 000.
    pub deadline_ms: u64,
    /// Memory of all its processes and its /tmp, in MiB, 1 to 8192.
    pub memory_mib: u64,
    /// Processes and threads, 1 to 1024.
    pub pids: u64,
    /// Bytes kept of each output stream, at most 4 MiB.
    pub output_bytes: u64,
    /// Size of its /tmp, in MiB, 1 to `memory_mib`.
    pub scratch_mib: u64,
}

/// Why a registry was refused.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// Not a list of tools.
    #[error("the tool registry cannot be understood: {0}")]
    Json(#[from] serde_json::Error),
    /// A tool that cannot work.
    #[error("tool {tool:?}: {reason}")]
    Tool {
        /// The tool.
        tool: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A name in the list of tools to enable.
    #[error("cannot enable tool {0:?}: the image has no such tool")]
    NoSuchTool(String),
}

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CallError {
    /// Not in the registry.
    #[error("no tool {0:?} in this image")]
    Unknown(String),
    /// In the registry, switched off.
    #[error("tool {0:?} is not enabled; an operator can enable it in the agent's configuration")]
    Disabled(String),
    /// The parameters do not fit.
    #[error("parameters of {tool}: {reason}")]
    InvalidParams {
        /// The tool.
        tool: String,
        /// Where and why, in the words of the schema.
        reason: String,
    },
}

/// The tools of an image.
pub struct Registry {
    tools: BTreeMap<String, Entry>,
}

struct Entry {
    spec: ToolSpec,
    schema: Schema,
}

impl Registry {
    /// Reads `tools.json`.
    pub fn parse(text: &str) -> Result<Self, RegistryError> {
        Self::new(serde_json::from_str(text)?)
    }

    /// Checks every tool.
    pub fn new(specs: Vec<ToolSpec>) -> Result<Self, RegistryError> {
        let mut tools = BTreeMap::new();
        for spec in specs {
            let refuse = |reason| RegistryError::Tool { tool: spec.name.clone(), reason };
            check::check(&spec).map_err(refuse)?;
            let schema = Schema::compile(&spec.params)
                .map_err(|e| refuse(format!("its schema cannot be used: {e}")))?;
            let name = spec.name.clone();
            if let Some(twin) = tools.insert(name, Entry { spec, schema }) {
                return Err(RegistryError::Tool {
                    tool: twin.spec.name,
                    reason: "is there twice".into(),
                });
            }
        }
        Ok(Self { tools })
    }

    /// Enables tools that are off by default.
    pub fn enable<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), RegistryError> {
        for name in names {
            let entry = self
                .tools
                .get_mut(name)
                .ok_or_else(|| RegistryError::NoSuchTool(name.to_owned()))?;
            entry.spec.enabled = true;
        }
        Ok(())
    }

    /// All tools by name.
    pub fn tools(&self) -> impl Iterator<Item = &ToolSpec> {
        self.tools.values().map(|entry| &entry.spec)
    }

    /// Checks a call: the tool exists and is enabled, the parameters fit its schema.
    pub fn check(&self, tool: &str, params: &Map<String, Value>) -> Result<&ToolSpec, CallError> {
        let entry = self.tools.get(tool).ok_or_else(|| CallError::Unknown(tool.to_owned()))?;
        if !entry.spec.enabled {
            return Err(CallError::Disabled(tool.to_owned()));
        }
        entry
            .schema
            .check(&Value::Object(params.clone()))
            .map_err(|reason| invalid(tool, reason))?;
        Ok(&entry.spec)
    }

    /// The command line of a checked call.
    pub fn argv(&self, tool: &str, params: &Map<String, Value>) -> Result<Vec<String>, CallError> {
        let spec = self.check(tool, params)?;
        argv::build(&spec.argv, params).map_err(|reason| invalid(tool, reason))
    }
}

fn invalid(tool: &str, reason: String) -> CallError {
    CallError::InvalidParams { tool: tool.to_owned(), reason }
}

#[cfg(test)]
mod tests;
