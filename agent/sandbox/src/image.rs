//! Where a guest image is, and the manifest that vouches for its kernel and its root file system.

mod error;
mod filesystem;

pub use error::{Artifact, ImageError};
pub use filesystem::recognise;

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use guest::manifest::{ImageManifest, ManifestError};

/// Where the parts of an image are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSource {
    /// Directory with `vmlinux`, `rootfs.ext4` and `manifest.json`.
    pub dir: PathBuf,
    /// A kernel in place of the directory's. The manifest does not speak of it.
    pub kernel: Option<PathBuf>,
    /// A root file system in place of the directory's. The manifest does not speak of it.
    pub rootfs: Option<PathBuf>,
}

impl ImageSource {
    /// An image directory with nothing replaced.
    pub fn directory(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), kernel: None, rootfs: None }
    }

    /// Reads the manifest. `None` when the directory has none.
    ///
    /// # Errors
    ///
    /// The manifest is there and cannot be read or understood.
    pub fn manifest(&self) -> Result<Option<ImageManifest>, ImageError> {
        let path = self.manifest_path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ImageError::Manifest { path, detail: source.to_string() }),
        };
        match ImageManifest::parse(&text) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(e) => Err(ImageError::Manifest { path, detail: e.to_string() }),
        }
    }

    fn manifest_path(&self) -> PathBuf {
        self.dir.join("manifest.json")
    }

    /// The file of a part.
    pub fn path(&self, artifact: Artifact) -> PathBuf {
        let replaced = match artifact {
            Artifact::Kernel => &self.kernel,
            Artifact::Rootfs => &self.rootfs,
        };
        replaced.clone().unwrap_or_else(|| self.dir.join(artifact.file_name()))
    }

    /// Whether another file stands in for the directory's own part.
    pub fn is_replaced(&self, artifact: Artifact) -> bool {
        match artifact {
            Artifact::Kernel => self.kernel.is_some(),
            Artifact::Rootfs => self.rootfs.is_some(),
        }
    }

    /// Compares a part's digest with the manifest, when there is one and the part is the
    /// directory's own.
    ///
    /// # Errors
    ///
    /// The digest is not the one of the manifest.
    pub fn vouch(
        &self,
        manifest: Option<&ImageManifest>,
        artifact: Artifact,
        digest: &[u8; 32],
    ) -> Result<(), ImageError> {
        let Some(manifest) = manifest.filter(|_| !self.is_replaced(artifact)) else {
            return Ok(());
        };
        manifest.check(artifact.file_name(), digest).map_err(|e| match e {
            ManifestError::Mismatch { expected, found, .. } => {
                let path = self.path(artifact);
                ImageError::Mismatch { artifact, path, expected, actual: found }
            }
            e => ImageError::Manifest { path: self.manifest_path(), detail: e.to_string() },
        })
    }
}

#[cfg(test)]
mod tests;
