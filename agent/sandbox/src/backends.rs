//! What makes sandboxes: one folder for each kind of machine.

pub mod kvm;

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use crate::{Sandbox, SandboxSpec};

/// Makes sandboxes of one kind. The value holds the settings that only this kind has.
pub trait Backend: Any + Debug + Send + Sync {
    /// Name on command lines and in reports.
    fn name(&self) -> &'static str;

    /// A sandbox that is not booted.
    fn make(&self, spec: SandboxSpec) -> Arc<dyn Sandbox>;
}

/// Names of all backends, the default one first.
pub const BACKEND_NAMES: &[&str] = &[kvm::KvmConfig::NAME];
