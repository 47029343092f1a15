//! The tools that an image has.

use guest::manifest::ImageManifest;
use guest::registry::{CallError, Registry, RegistryError};
use serde_json::{Map, Value};

use super::ToolFacts;

/// The tools of an image, by name.
pub struct Tools {
    registry: Registry,
    manifest: ImageManifest,
}

impl Tools {
    /// Takes the tools of an image, and enables those in `enable` on top.
    ///
    /// # Errors
    ///
    /// The manifest describes a tool wrongly, or `enable` names one that it does not have.
    pub fn new(manifest: &ImageManifest, enable: &[String]) -> Result<Self, RegistryError> {
        let mut registry = Registry::new(manifest.tools.clone())?;
        registry.enable(enable.iter().map(String::as_str))?;
        Ok(Self { registry, manifest: manifest.clone() })
    }

    /// Looks a tool up and checks the parameters against its schema.
    ///
    /// # Errors
    ///
    /// There is no such tool, it is not enabled, or the parameters do not fit its schema.
    pub fn check(&self, tool: &str, params: &Map<String, Value>) -> Result<ToolFacts, CallError> {
        let spec = self.registry.check(tool, params)?;
        Ok(ToolFacts {
            track: spec.track,
            deadline_ms: spec.limits.deadline_ms,
            estimated_duration_ms: spec.estimated_duration_ms,
        })
    }

    /// The manifest of the image.
    pub fn manifest(&self) -> &ImageManifest {
        &self.manifest
    }
}
