//! What a probe says about itself.

use serde::Serialize;

/// Who would attack like this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum AttackerClass {
    /// A tool that runs code of an attacker.
    A3,
    /// A substrate that lies about the machine.
    A6,
    /// An attacker that passes data of others off as its own.
    A7,
    /// An attacker who has a signed command that is not, or no longer, for this endpoint.
    A8,
    /// No attacker: the probe measures.
    #[serde(rename = "LAT")]
    Latency,
    /// A tool that takes more than it may have.
    #[serde(rename = "sandbox-runtime-limit")]
    RuntimeLimit,
}

/// What should become of the probe's attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expectation {
    /// The attempts work.
    ShouldPass,
    /// The attempts fail.
    ShouldFail,
}

/// What a probe says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeInfo {
    /// Name on the command line and in the report.
    pub name: &'static str,
    /// Who would attack like this.
    pub class: AttackerClass,
    /// What should become of the attempts.
    pub expectation: Expectation,
    /// What the probe does, in one sentence.
    pub description: &'static str,
    /// The probe does everything as often as the iterations say, and its budget grows with them.
    pub repeats: bool,
}
