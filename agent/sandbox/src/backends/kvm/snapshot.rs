//! Golden states of sandboxes in files: made once, started from without booting.

use std::path::Path;
use std::sync::Arc;

use vmm::Golden;
use vmm::snapshot_file::{Expectation, SnapshotError};

use super::{KvmConfig, KvmImage, KvmSandbox, not_available};
use crate::error::SandboxError;
use crate::spec::SandboxSpec;

impl KvmSandbox {
    /// Writes the golden state to a file. The sandbox must have booted as one that can be reset.
    ///
    /// # Errors
    ///
    /// There is no golden state, or the file cannot be written.
    pub fn save_snapshot(&self, path: &Path) -> Result<(), SandboxError> {
        let golden = self.golden().ok_or_else(|| {
            not_available("the sandbox has no golden state: ask for resets and boot it first")
        })?;
        golden.save(path).map_err(|error| not_available(&error.to_string()))
    }

    /// A sandbox whose boots start from the snapshot in `path`. It has to have been made of the
    /// same image and with the same settings, by this version on a processor like this one.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is damaged, or was made of another image, with other settings or on another
    /// kind of processor.
    pub fn from_snapshot(
        spec: SandboxSpec,
        config: KvmConfig,
        path: &Path,
    ) -> Result<Self, SandboxError> {
        let image = KvmImage::open(&spec.image).map_err(|e| super::boot::image_failed(&e))?;
        let rootfs = image.rootfs().sha256().map_err(|e| not_available(&e.to_string()))?;
        let mut expectation = Expectation::default();
        expectation.kernel_sha256 = Some(image.kernel().sha256());
        expectation.rootfs_sha256 = Some(rootfs);
        expectation.cmdline = Some(config.cmdline(&spec, &image));
        expectation.memory_mib = Some(spec.memory_mib);
        expectation.vcpus = Some(spec.vcpus);
        let golden = Golden::load(path, &expectation).map_err(|error| refused(&error))?;
        Self::restore(spec, config, Arc::new(image), golden)
    }
}

/// Damage has a name of its own: no proper writer of snapshots causes it.
fn refused(error: &SnapshotError) -> SandboxError {
    use SnapshotError::{Damaged, NotAFile, NotASnapshot, TooLarge, Truncated};
    match error {
        NotAFile | NotASnapshot | TooLarge { .. } | Truncated { .. } | Damaged { .. } => {
            SandboxError::SnapshotChanged { reason: error.to_string() }
        }
        error => not_available(&error.to_string()),
    }
}
