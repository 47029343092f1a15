//! What a probe found, and why it may have found nothing.

use sandbox::SandboxError;
use serde_json::Value;
use thiserror::Error;

/// What a probe found.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Whether the boundary held.
    pub passed: bool,
    /// Why, for a person.
    pub reason: String,
    /// What the probe saw.
    pub evidence: Value,
}

/// Why a probe found nothing.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The attack does not even succeed where it should.
    #[error(
        "its control failed, so it would prove nothing: {0}; build the attack image again with \
         `cargo xtask image --flavour attack`"
    )]
    Control(String),
    /// The sandbox failed where the probe had not attacked it yet.
    #[error("{step}: {error} ({code})", code = error.code())]
    Sandbox {
        /// What the probe was doing.
        step: &'static str,
        /// What the sandbox failed with.
        error: SandboxError,
    },
    /// The machine refused to be paused, read or changed.
    #[error("{0}")]
    Machine(#[from] vmm::MachineError),
    /// A file or process of this host failed.
    #[error("{0}")]
    Host(#[from] std::io::Error),
    /// The probe looks into a KVM machine, and the chosen backend has none.
    #[error(
        "it looks into a KVM machine, which the backend {backend} does not have: choose the \
         backend with --sandbox kvm, or leave the probe out with --probes"
    )]
    NeedsKvm {
        /// Name of the chosen backend.
        backend: &'static str,
    },
}

impl Verdict {
    /// Passes where `breaches` is empty, with `held` as the reason; otherwise the breaches are the
    /// reason.
    pub fn of(breaches: &[String], held: impl Into<String>, evidence: Value) -> Self {
        let passed = breaches.is_empty();
        let reason = if passed { held.into() } else { breaches.join("; ") };
        Self { passed, reason, evidence }
    }
}

impl ProbeError {
    /// Makes the closure for `map_err`: the sandbox failed at `step`.
    pub fn at(step: &'static str) -> impl FnOnce(SandboxError) -> Self {
        move |error| Self::Sandbox { step, error }
    }
}
