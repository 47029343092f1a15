//! What a sandbox is to be, whatever makes it.

use crate::image::ImageSource;

/// What a sandbox is to be. What only one kind of machine can be told is in the settings of its
/// [`Backend`](crate::Backend).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSpec {
    /// The guest image.
    pub image: ImageSource,
    /// Number of vCPUs, 1 to 8.
    pub vcpus: u8,
    /// RAM in MiB, 64 to 8192.
    pub memory_mib: u32,
    /// Tools to enable that the image leaves disabled.
    pub enable_tools: Vec<String>,
    /// Whether the sandbox can be reset, and its resets verified.
    pub resets: Resets,
}

/// Whether a sandbox can be reset, and its resets verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resets {
    /// It cannot be reset. No golden state is captured, and the boot is shorter.
    None,
    /// It can be reset, and the resets cannot be verified.
    Unverified,
    /// It can be reset, and the resets can be verified: the first boot also measures what a verified
    /// reset compares a machine with.
    Verified,
}

impl SandboxSpec {
    /// The smallest usual sandbox of an image: one vCPU, 128 MiB, no further tools, resets that are
    /// not verified.
    pub fn new(image: ImageSource) -> Self {
        Self {
            image,
            vcpus: 1,
            memory_mib: 128,
            enable_tools: Vec::new(),
            resets: Resets::Unverified,
        }
    }

    /// The same sandbox with other resets.
    #[must_use]
    pub fn with_resets(self, resets: Resets) -> Self {
        Self { resets, ..self }
    }
}
