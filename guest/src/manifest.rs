//! `manifest.json`: what an image consists of and what it was made from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::evidence::format_sha256;
use crate::registry::ToolSpec;

/// Version of the manifest's own format.
pub const SCHEMA_VERSION: u32 = 1;

/// Describes an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageManifest {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Digest over all inputs: an image is rebuilt when it changes.
    pub input_digest: String,
    /// The files beside the manifest, by name.
    pub artifacts: BTreeMap<String, Artifact>,
    /// What they were made from, by name.
    pub inputs: BTreeMap<String, Input>,
    /// Kernel command line, without the devices the machine adds.
    pub kernel_cmdline: String,
    /// vsock port of the guest program.
    pub guest_port: u32,
    /// The tools baked into the image.
    pub tools: Vec<ToolSpec>,
    /// Versions of the parts, by name: `kernel`, `busybox`, `guest`.
    pub versions: BTreeMap<String, String>,
}

/// A file of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// `sha256:` and 64 hex digits.
    pub sha256: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// Something an image was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// `sha256:` and 64 hex digits.
    pub sha256: String,
    /// Version, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// Why a manifest or an artifact was refused.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Not a manifest.
    #[error("manifest.json cannot be understood: {0}; build the image again")]
    Json(#[from] serde_json::Error),
    /// Another format.
    #[error("manifest.json has schema version {0}, this program knows {SCHEMA_VERSION}")]
    SchemaVersion(u32),
    /// The manifest does not know the file.
    #[error("manifest.json does not list {0}; build the image again")]
    NotListed(String),
    /// The file is not the one the manifest describes.
    #[error(
        "{name} is not the file of this image: manifest.json says {expected}, the file has {found}"
    )]
    Mismatch {
        /// The file.
        name: String,
        /// Hash in the manifest.
        expected: String,
        /// Hash of the file.
        found: String,
    },
}

impl ImageManifest {
    /// Reads a manifest.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_str(text)?;
        if manifest.schema_version == SCHEMA_VERSION {
            Ok(manifest)
        } else {
            Err(ManifestError::SchemaVersion(manifest.schema_version))
        }
    }

    /// Compares the hash of the artifact `name` with what the manifest says.
    pub fn check(&self, name: &str, sha256: &[u8; 32]) -> Result<(), ManifestError> {
        let artifact =
            self.artifacts.get(name).ok_or_else(|| ManifestError::NotListed(name.to_owned()))?;
        let found = format_sha256(sha256);
        if artifact.sha256 == found {
            return Ok(());
        }
        let (name, expected) = (name.to_owned(), artifact.sha256.clone());
        Err(ManifestError::Mismatch { name, expected, found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> ImageManifest {
        let artifact = Artifact { sha256: format_sha256(&[1; 32]), bytes: 1 };
        ImageManifest {
            schema_version: SCHEMA_VERSION,
            input_digest: format_sha256(&[0; 32]),
            artifacts: BTreeMap::from([("vmlinux".to_owned(), artifact)]),
            inputs: BTreeMap::new(),
            kernel_cmdline: "quiet".into(),
            guest_port: 52000,
            tools: Vec::new(),
            versions: BTreeMap::new(),
        }
    }

    #[test]
    fn a_manifest_survives_being_written() {
        let text = serde_json::to_string(&manifest()).unwrap();
        assert_eq!(ImageManifest::parse(&text).unwrap(), manifest());
    }

    #[test]
    fn other_versions_and_fields_are_refused() {
        let mut value = serde_json::to_value(manifest()).unwrap();
        value["schema_version"] = 2.into();
        let result = ImageManifest::parse(&value.to_string());
        assert!(matches!(result, Err(ManifestError::SchemaVersion(2))));
        value["surprise"] = 1.into();
        assert!(matches!(ImageManifest::parse(&value.to_string()), Err(ManifestError::Json(_))));
    }

    #[test]
    fn another_file_is_named_with_both_hashes() {
        assert!(manifest().check("vmlinux", &[1; 32]).is_ok());
        let text = manifest().check("vmlinux", &[2; 32]).unwrap_err().to_string();
        assert!(
            text.contains("vmlinux") && text.contains("0101") && text.contains("0202"),
            "{text}"
        );
        assert!(matches!(manifest().check("bzImage", &[1; 32]), Err(ManifestError::NotListed(_))));
    }
}
