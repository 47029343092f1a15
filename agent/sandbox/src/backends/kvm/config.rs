//! The settings of the KVM backend.

use std::sync::Arc;

use vmm::{IntegrityPlan, MachineConfig, Strategy};

use super::KvmSandbox;
use super::image::KvmImage;
use crate::{Backend, Resets, Sandbox, SandboxSpec};

/// What only KVM machines can be told, beside a [`SandboxSpec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvmConfig {
    /// vsock address of the guest, 3 to `u32::MAX - 1`.
    pub guest_cid: u32,
    /// vsock port of the guest program, 1 to 65535; by default the image's.
    pub guest_port: Option<u32>,
    /// How a reset restores the machine after a command.
    pub strategy: Strategy,
    /// How much of what a command did not touch a verified reset reads again, another part each
    /// time.
    pub integrity: IntegrityPlan,
}

impl KvmConfig {
    /// Name of the backend.
    pub const NAME: &str = "kvm";

    /// How the machine is reset; `None` when the sandbox is not to be reset.
    pub(super) fn strategy(&self, spec: &SandboxSpec) -> Option<Strategy> {
        (spec.resets != Resets::None).then_some(self.strategy)
    }

    /// vsock port that the guest program listens on.
    pub(super) fn guest_port(&self, image: &KvmImage) -> u32 {
        self.guest_port.unwrap_or_else(|| image.guest_port())
    }

    /// Kernel command line of a machine of this image, without the devices that the machine appends.
    pub fn cmdline(&self, spec: &SandboxSpec, image: &KvmImage) -> String {
        let mut line = format!("{} BSM_VSOCK_PORT={}", image.cmdline(), self.guest_port(image));
        if !spec.enable_tools.is_empty() {
            line += " BSM_ENABLE_TOOLS=";
            line += &spec.enable_tools.join(",");
        }
        line
    }
}

impl Default for KvmConfig {
    /// Resets by copying back, with the usual checks and the image's port.
    fn default() -> Self {
        Self {
            guest_cid: *MachineConfig::GUEST_CID.start(),
            guest_port: None,
            strategy: Strategy::default(),
            integrity: IntegrityPlan::default(),
        }
    }
}

impl Backend for KvmConfig {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn make(&self, spec: SandboxSpec) -> Arc<dyn Sandbox> {
        Arc::new(KvmSandbox::new(spec, self.clone()))
    }
}
