//! The kernel and the disk of a guest image, as the monitor maps them.

use std::sync::Arc;
use std::thread;

use guest::manifest::ImageManifest;
use guest::wire::DEFAULT_PORT;
use vmm::{DiskError, DiskImage, KernelError, KernelImage};

use crate::image::{Artifact, ImageError, ImageSource, recognise};

/// Kernel command line when no manifest gives one.
const DEFAULT_CMDLINE: &str =
    "console=ttyS0 quiet panic=-1 reboot=t root=/dev/vda rootfstype=ext4 rw init=/sbin/init";

/// A loaded image, checked as far as its manifest goes. What was hashed is what runs: both parts
/// are held as private, sealed copies.
pub struct KvmImage {
    source: ImageSource,
    kernel: Arc<KernelImage>,
    rootfs: Arc<DiskImage>,
    manifest: Option<ImageManifest>,
}

impl KvmImage {
    /// Loads both parts and compares them with the manifest.
    ///
    /// # Errors
    ///
    /// A part cannot be read, is of no use, or is not the one of the manifest.
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
    source.vouch(manifest, artifact, &kernel.sha256())?;
    Ok(kernel)
}

fn open_rootfs(
    source: &ImageSource,
    manifest: Option<&ImageManifest>,
) -> Result<DiskImage, ImageError> {
    let artifact = Artifact::Rootfs;
    let path = source.path(artifact);
    recognise(&path)?;
    let disk = |e: DiskError| ImageError::Disk { path: path.clone(), detail: e.to_string() };
    let rootfs = DiskImage::open(&path).map_err(disk)?;
    source.vouch(manifest, artifact, &rootfs.sha256().map_err(disk)?)?;
    Ok(rootfs)
}

#[cfg(test)]
mod tests;
