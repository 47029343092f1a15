//! The sandboxes that can be attacked: a name and a factory for each.

use std::sync::Arc;

use sandbox::{KvmSandbox, Sandbox, SandboxConfig};

/// A kind of sandbox.
#[derive(Debug, Clone, Copy)]
pub struct Backend {
    /// Name on the command line and in the report.
    pub name: &'static str,
    /// Makes a sandbox that is not booted yet.
    pub open: fn(SandboxConfig) -> Opened,
}

/// A sandbox that a backend made.
#[derive(Clone)]
pub struct Opened {
    /// The sandbox, as every probe sees it.
    pub sandbox: Arc<dyn Sandbox>,
    /// This sandbox for probes that look into its machine; `None` where the backend is not KVM.
    pub kvm: Option<Arc<KvmSandbox>>,
}

/// A KVM machine in this process.
pub const KVM: Backend = Backend { name: "kvm", open: open_kvm };

/// Every backend, the default one first.
pub const BACKENDS: &[Backend] = &[KVM];

impl Backend {
    /// The backend of this name.
    pub fn find(name: &str) -> Option<Self> {
        BACKENDS.iter().find(|backend| backend.name == name).copied()
    }
}

fn open_kvm(config: SandboxConfig) -> Opened {
    let kvm = Arc::new(KvmSandbox::new(config));
    Opened { sandbox: Arc::clone(&kvm) as _, kvm: Some(kvm) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_found_by_its_name_alone() {
        for backend in BACKENDS {
            assert_eq!(Backend::find(backend.name).unwrap().name, backend.name);
        }
        assert!(Backend::find("no such backend").is_none());
    }
}
