//! The report, schema 1.0.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::info::{AttackerClass, Expectation};
use crate::latency::Latency;

/// Version of the report's schema.
pub const SCHEMA_VERSION: &str = "1.0";

/// What a run of the battery found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Version of the schema: [`SCHEMA_VERSION`].
    pub schema_version: &'static str,
    /// When the run ended, RFC 3339.
    pub generated_at: String,
    /// Name of the backend that made the sandboxes, such as `kvm`.
    pub backend: &'static str,
    /// State of the ordinary sandbox after the last probe's clean-up: `not_booted`, `booting`,
    /// `ready`, `resetting` or `failed`.
    pub final_sandbox_state: String,
    /// Every probe that ran, in order.
    pub probes: Vec<ProbeReport>,
    /// Distributions of what the probes measured, by name.
    pub latency: BTreeMap<String, Latency>,
    /// Counts of the probes.
    pub summary: Summary,
    /// Remarks for the reader, such as which defences were left out.
    pub notes: Vec<String>,
}

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProbeReport {
    /// Name of the probe.
    pub name: String,
    /// Who would attack like this.
    pub attacker_class: AttackerClass,
    /// What should become of the attempts.
    pub expectation: Expectation,
    /// `validated-` and the name of the backend.
    pub validated_against: String,
    /// What the probe does, in one sentence.
    pub description: String,
    /// Whether the boundary held. Never true when the probe errored.
    pub passed: bool,
    /// Why, for a person.
    pub reason: String,
    /// How long the probe took, in milliseconds, without the reset after it.
    pub duration_ms: f64,
    /// The probe came to no verdict.
    pub errored: bool,
    /// Why the probe came to no verdict.
    pub error_message: Option<String>,
    /// What the probe saw.
    pub evidence: Value,
}

/// Counts of probes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Probes that were selected.
    pub total: usize,
    /// Probes whose boundary held.
    pub passed: usize,
    /// Probes whose boundary did not hold.
    pub failed: usize,
    /// Probes without a verdict.
    pub errored: usize,
    /// Probes that never started, because the sandbox had failed for good.
    pub skipped: usize,
}

impl Summary {
    /// Counts `probes`, the reports of a run that selected `total` probes.
    pub fn of(probes: &[ProbeReport], total: usize) -> Self {
        let count = |wanted: fn(&ProbeReport) -> bool| probes.iter().filter(|p| wanted(p)).count();
        Self {
            total,
            passed: count(|p| p.passed && !p.errored),
            failed: count(|p| !p.passed && !p.errored),
            errored: count(|p| p.errored),
            skipped: total.saturating_sub(probes.len()),
        }
    }

    /// Whether at least one probe ran and all of them passed.
    pub fn is_clean(&self) -> bool {
        self.passed > 0 && self.passed == self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(passed: bool, errored: bool) -> ProbeReport {
        ProbeReport {
            name: "p".into(),
            attacker_class: AttackerClass::RuntimeLimit,
            expectation: Expectation::ShouldFail,
            validated_against: "validated-kvm".into(),
            description: String::new(),
            passed,
            reason: String::new(),
            duration_ms: 1.0,
            errored,
            error_message: None,
            evidence: Value::Null,
        }
    }

    #[test]
    fn only_a_run_in_which_everything_passed_is_clean() {
        let clean = |probes: &[_], total| Summary::of(probes, total).is_clean();
        let passed = probe(true, false);
        assert!(clean(std::slice::from_ref(&passed), 1));
        assert!(!clean(&[], 0), "nothing ran");
        assert!(!clean(std::slice::from_ref(&passed), 2), "one was skipped");
        assert!(!clean(&[passed.clone(), probe(false, false)], 2));
        assert!(!clean(&[passed, probe(false, true)], 2));
        let summary = Summary::of(&[probe(false, true), probe(false, false)], 3);
        assert_eq!((summary.errored, summary.failed, summary.skipped), (1, 1, 1));
    }

    #[test]
    fn names_are_those_of_the_schema() {
        let value = serde_json::to_value(probe(true, false)).unwrap();
        let mut names: Vec<&String> = value.as_object().unwrap().keys().collect();
        names.sort();
        assert_eq!(
            names,
            [
                "attacker_class",
                "description",
                "duration_ms",
                "error_message",
                "errored",
                "evidence",
                "expectation",
                "name",
                "passed",
                "reason",
                "validated_against",
            ]
        );
        assert_eq!(value["attacker_class"], "sandbox-runtime-limit");
        assert_eq!(value["expectation"], "should-fail");
    }
}
