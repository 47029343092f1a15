//! One probe: what it attacks with, and what must come of it.

use std::fmt;

use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

use super::Arena;
use sandbox::SandboxError;

/// Who would do this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum AttackerClass {
    /// A tool that runs code of an attacker.
    A3,
    /// A substrate that lies about the machine.
    A6,
    /// Somebody who has others' data pass for his own.
    A7,
    /// Somebody who has a signed command that is not, or no longer, for this endpoint.
    A8,
    /// Nobody: a measurement.
    #[serde(rename = "LAT")]
    Latency,
    /// A tool that takes more than it may have.
    #[serde(rename = "sandbox-runtime-limit")]
    RuntimeLimit,
}

/// What should become of what the probe does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expectation {
    /// It works.
    ShouldPass,
    /// It does not.
    ShouldFail,
}

/// A probe.
pub struct Probe {
    /// Its name on the command line.
    pub name: &'static str,
    /// Who would do this.
    pub class: AttackerClass,
    /// What should become of it.
    pub expectation: Expectation,
    /// What it does, in one sentence.
    pub description: &'static str,
    /// Whether it does everything as often as the iterations say, and may take longer for it.
    pub repeats: bool,
    /// Does it.
    pub run: fn(&Arena) -> Result<Verdict, ProbeError>,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Whether the boundary held.
    pub passed: bool,
    /// Why, for a person.
    pub reason: String,
    /// What was seen.
    pub evidence: Value,
}

/// Why a probe found nothing.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The attack does not even succeed where it should.
    #[error(
        "its control failed, so it would prove nothing: {0}; build the attack image again with \
         `cargo xtask image --flavour attack`"
    )]
    Control(String),
    /// The sandbox failed where nobody had attacked it yet.
    #[error("{step}: {error} ({code})", code = error.code())]
    Sandbox {
        /// What was being done.
        step: &'static str,
        /// What it failed with.
        error: SandboxError,
    },
    /// The machine.
    #[error("{0}")]
    Machine(#[from] vmm::MachineError),
    /// This host.
    #[error("{0}")]
    Host(#[from] std::io::Error),
}

impl Verdict {
    /// The boundary held when there is no breach; each is told otherwise.
    pub fn of(breaches: &[String], held: impl Into<String>, evidence: Value) -> Self {
        let passed = breaches.is_empty();
        let reason = if passed { held.into() } else { breaches.join("; ") };
        Self { passed, reason, evidence }
    }
}

impl ProbeError {
    /// For `map_err`: the sandbox failed at `step`.
    pub fn at(step: &'static str) -> impl FnOnce(SandboxError) -> Self {
        move |error| Self::Sandbox { step, error }
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("name", &self.name).finish_non_exhaustive()
    }
}
