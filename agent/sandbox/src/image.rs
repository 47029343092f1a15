//! The guest image: kernel, root file system, and the manifest that vouches for both.

mod error;
mod filesystem;

pub use error::{Artifact, ImageError};

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use guest::manifest::{ImageManifest, ManifestError};
use guest::wire::DEFAULT_PORT;
use vmm::{DiskError, DiskImage, KernelError, KernelImage};

/// Kernel command line when no manifest gives one.
const DEFAULT_CMDLINE: &str =
    "console=ttyS0 quiet panic=-1 reboot=t root=/dev/vda rootfstype=ext4 rw init=/sbin/init";

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

/// A loaded image, checked as far as its manifest goes. What was hashed is what runs: both parts
/// are held as private, sealed copies.
pub struct Image {
    source: ImageSource,
    kernel: Arc<KernelImage>,
    rootfs: Arc<DiskImage>,
    manifest: Option<ImageManifest>,
}

impl ImageSource {
    /// An image directory with nothing replaced.
    pub fn directory(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), kernel: None, rootfs: None }
    }

    /// Reads the manifest. `None` when the directory has none.
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

    fn path(&self, artifact: Artifact) -> PathBuf {
        let replaced = match artifact {
            Artifact::Kernel => &self.kernel,
            Artifact::Rootfs => &self.rootfs,
        };
        replaced.clone().unwrap_or_else(|| self.dir.join(artifact.file_name()))
    }

    fn is_replaced(&self, artifact: Artifact) -> bool {
        match artifact {
            Artifact::Kernel => self.kernel.is_some(),
            Artifact::Rootfs => self.rootfs.is_some(),
        }
    }
}

impl Image {
    /// Loads both parts and compares them with the manifest.
    pub fn open(source: &ImageSource) -> Result<Self, ImageError> {
        let manifest = source.manifest()?;
        let (kernel, rootfs) = thread::scope(|scope| {
            // Reading and hashing take most of the time, and the parts need not wait for another.
            let kernel = scope.spawn(|| open_kernel(source, manifest.as_ref()));
            let rootfs = open_rootfs(source, manifest.as_ref());
            let kernel = kernel.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (kernel, rootfs)
        });
        let (kernel, rootfs) = (Arc::new(kernel?), Arc::new(rootfs?));
        Ok(Self { source: source.clone(), kernel, rootfs, manifest })
    }

    /// The kernel.
    pub fn kernel(&self) -> &Arc<KernelImage> {
        &self.kernel
    }

    /// The root file system.
    pub fn rootfs(&self) -> &Arc<DiskImage> {
        &self.rootfs
    }

    /// What the image says about itself.
    pub fn manifest(&self) -> Option<&ImageManifest> {
        self.manifest.as_ref()
    }

    /// Kernel command line, without what depends on the machine.
    pub fn cmdline(&self) -> &str {
        self.manifest.as_ref().map_or(DEFAULT_CMDLINE, |m| &m.kernel_cmdline)
    }

    /// Port the guest program listens on unless told otherwise.
    pub fn guest_port(&self) -> u32 {
        self.manifest.as_ref().map_or(DEFAULT_PORT, |m| m.guest_port)
    }

    /// Whether the manifest vouches for every part.
    pub fn is_verified(&self) -> bool {
        let replaced = Artifact::ALL.iter().any(|artifact| self.source.is_replaced(*artifact));
        self.manifest.is_some() && !replaced
    }

    /// Where the image is and what it holds, in one line.
    pub fn summary(&self) -> String {
        let place = self.source.dir.display();
        match &self.manifest {
            Some(manifest) if self.is_verified() => format!(
                "{place}: digests match the manifest, kernel {}, {} tools",
                manifest.versions.get("kernel").map_or("unknown", String::as_str),
                manifest.tools.len(),
            ),
            Some(_) => format!("{place}: usable, but a part of it is replaced"),
            None => format!("{place}: usable, but there is no manifest.json to compare with"),
        }
    }
}

fn open_kernel(
    source: &ImageSource,
    manifest: Option<&ImageManifest>,
) -> Result<KernelImage, ImageError> {
    let artifact = Artifact::Kernel;
    let path = source.path(artifact);
    let kernel = KernelImage::open(&path).map_err(|e| match e {
        KernelError::Read { source, .. } => ImageError::read(artifact, &path, source),
        KernelError::Empty => ImageError::Empty { artifact, path: path.clone() },
        KernelError::Truncated { needed, found } => {
            ImageError::Truncated { artifact, path: path.clone(), needed, found }
        }
        other => ImageError::NotAKernel { path: path.clone(), detail: other.to_string() },
    })?;
    vouch(source, manifest, artifact, &path, kernel.sha256())?;
    Ok(kernel)
}

fn open_rootfs(
    source: &ImageSource,
    manifest: Option<&ImageManifest>,
) -> Result<DiskImage, ImageError> {
    let artifact = Artifact::Rootfs;
    let path = source.path(artifact);
    filesystem::recognise(&path)?;
    let disk = |e: DiskError| ImageError::Disk { path: path.clone(), detail: e.to_string() };
    let rootfs = DiskImage::open(&path).map_err(disk)?;
    vouch(source, manifest, artifact, &path, rootfs.sha256().map_err(disk)?)?;
    Ok(rootfs)
}

/// Compares with the manifest, when there is one and the part is its own.
fn vouch(
    source: &ImageSource,
    manifest: Option<&ImageManifest>,
    artifact: Artifact,
    path: &Path,
    digest: [u8; 32],
) -> Result<(), ImageError> {
    let Some(manifest) = manifest.filter(|_| !source.is_replaced(artifact)) else {
        return Ok(());
    };
    manifest.check(artifact.file_name(), &digest).map_err(|e| match e {
        ManifestError::Mismatch { expected, found, .. } => {
            ImageError::Mismatch { artifact, path: path.to_owned(), expected, actual: found }
        }
        e => ImageError::Manifest { path: source.manifest_path(), detail: e.to_string() },
    })
}

#[cfg(test)]
mod tests;
