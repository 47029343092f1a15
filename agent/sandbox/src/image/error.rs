//! Why an image cannot be used.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

// What to do; every message ends with one of these.
const REBUILD: &str = "build the image again with `cargo xtask image`";
const LOCATE: &str = "build an image with `cargo xtask image`, or say where one is with \
                      --image-dir, BSM_IMAGE_DIR or `image_dir`";
const PERMIT: &str = "let the agent's user read it";

/// A part of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Artifact {
    /// The guest kernel.
    Kernel,
    /// The root file system.
    Rootfs,
}

impl Artifact {
    /// Every part.
    pub const ALL: [Self; 2] = [Self::Kernel, Self::Rootfs];

    /// Name in an image directory and in its manifest.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Kernel => "vmlinux",
            Self::Rootfs => "rootfs.ext4",
        }
    }
}

impl fmt::Display for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Rootfs => "root file system",
        })
    }
}

/// Why an image cannot be used.
#[derive(Debug, Error)]
pub enum ImageError {
    /// There is no such file.
    #[error("there is no {artifact} at {path}: {LOCATE}", path = path.display())]
    Missing {
        /// The part.
        artifact: Artifact,
        /// Where it should be.
        path: PathBuf,
    },
    /// The file could not be read.
    #[error("cannot read the {artifact} {path}: {source}: {PERMIT}", path = path.display())]
    Read {
        /// The part.
        artifact: Artifact,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file holds nothing.
    #[error("the {artifact} {path} is empty: {REBUILD}", path = path.display())]
    Empty {
        /// The part.
        artifact: Artifact,
        /// The file.
        path: PathBuf,
    },
    /// The file ends before its own headers say it does.
    #[error(
        "the {artifact} {path} is cut short: its headers speak of {needed} bytes, it has {found}: \
         {REBUILD}",
        path = path.display()
    )]
    Truncated {
        /// The part.
        artifact: Artifact,
        /// The file.
        path: PathBuf,
        /// Bytes its headers speak of.
        needed: u64,
        /// Bytes it has.
        found: u64,
    },
    /// The kernel is none.
    #[error(
        "{path} is not a kernel this machine can start: {detail}: {REBUILD}",
        path = path.display()
    )]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The root file system is none.
    #[error(
        "{path} does not hold an ext4, squashfs or EROFS file system that starts at its first \
         byte: {REBUILD}",
        path = path.display()
    )]
    NotAFilesystem {
        /// The file.
        path: PathBuf,
    },
    /// The disk could not be made of it.
    #[error("cannot use {path} as a disk: {detail}: {REBUILD}", path = path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The manifest cannot be understood.
    #[error("cannot use the manifest {path}: {detail}: {REBUILD}", path = path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A part is not the one the manifest speaks of.
    #[error(
        "the {artifact} {path} was changed after it was built: manifest.json says {expected}, the \
         file has {actual}: {REBUILD}",
        path = path.display()
    )]
    Mismatch {
        /// The part.
        artifact: Artifact,
        /// The file.
        path: PathBuf,
        /// The manifest's digest.
        expected: String,
        /// The file's digest.
        actual: String,
    },
}

impl ImageError {
    /// A file that could not be read, and why.
    pub fn read(artifact: Artifact, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if source.kind() == io::ErrorKind::NotFound {
            Self::Missing { artifact, path }
        } else {
            Self::Read { artifact, path, source }
        }
    }

    /// What to do about it: the end of the message.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Missing { .. } => LOCATE,
            Self::Read { .. } => PERMIT,
            Self::Empty { .. }
            | Self::Truncated { .. }
            | Self::NotAKernel { .. }
            | Self::NotAFilesystem { .. }
            | Self::Disk { .. }
            | Self::Manifest { .. }
            | Self::Mismatch { .. } => REBUILD,
        }
    }

    /// Whether something is absent, as opposed to broken.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}
