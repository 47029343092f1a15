//! What a sandbox in a KVM machine is made of.

use vmm::{IntegrityPlan, Strategy};

use crate::image::ImageSource;

/// What a sandbox is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxConfig {
    /// The guest image.
    pub image: ImageSource,
    /// Number of vCPUs, 1 to 8.
    pub vcpus: u8,
    /// RAM in MiB, 64 to 8192.
    pub memory_mib: u32,
    /// vsock address of the guest, 3 to `u32::MAX - 1`.
    pub guest_cid: u32,
    /// vsock port of the guest program, 1 to 65535; by default the image's.
    pub guest_port: Option<u32>,
    /// Tools to enable that the image leaves disabled.
    pub enable_tools: Vec<String>,
    /// How a reset restores the machine after a command. Without a strategy no golden state is
    /// captured: the boot is shorter, and the sandbox cannot be reset.
    pub strategy: Option<Strategy>,
    /// Whether resets can be verified: the first boot then also measures what a verified reset
    /// compares a machine with. Needs a strategy.
    pub verify: bool,
    /// How much of what a command did not touch a verified reset reads again, another part each
    /// time.
    pub integrity: IntegrityPlan,
}

impl SandboxConfig {
    /// The smallest usual sandbox of an image: one vCPU, 128 MiB, no further tools, reset by
    /// copying back without being verified.
    pub fn new(image: ImageSource) -> Self {
        Self {
            image,
            vcpus: 1,
            memory_mib: 128,
            guest_cid: 3,
            guest_port: None,
            enable_tools: Vec::new(),
            strategy: Some(Strategy::CopyBack),
            verify: false,
            integrity: IntegrityPlan::default(),
        }
    }
}
