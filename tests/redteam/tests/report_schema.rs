//! The JSON report, read as its consumers read it: by the names of schema 1.0, without the types of
//! this crate, and with no member too many or too few.
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use redteam::{AttackerClass, Expectation, FnProbe, Plan, Registry, Verdict};
use sandbox::{ImageSource, SandboxSpec};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    schema_version: String,
    generated_at: String,
    backend: String,
    final_sandbox_state: State,
    probes: Vec<Probe>,
    latency: BTreeMap<String, Latency>,
    summary: Summary,
    notes: Vec<String>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum State {
    NotBooted,
    Booting,
    Ready,
    Resetting,
    Failed,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Probe {
    name: String,
    attacker_class: Class,
    expectation: Expected,
    validated_against: String,
    description: String,
    passed: bool,
    reason: String,
    duration_ms: f64,
    errored: bool,
    error_message: Option<String>,
    evidence: Value,
}

#[derive(Debug, Deserialize, PartialEq)]
enum Class {
    A3,
    A6,
    A7,
    A8,
    #[serde(rename = "LAT")]
    Latency,
    #[serde(rename = "sandbox-runtime-limit")]
    RuntimeLimit,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Expected {
    ShouldPass,
    ShouldFail,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Latency {
    samples: u64,
    p50_ms: f64,
    p90_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    mean_ms: f64,
    min_ms: f64,
    max_ms: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Summary {
    total: u64,
    passed: u64,
    failed: u64,
    errored: u64,
    skipped: u64,
}

/// Report of a run that is not clean, as the program prints it.
fn report(arguments: &[&str]) -> Report {
    let output = Command::new(env!("CARGO_BIN_EXE_bsm-redteam"))
        .args(["--image-dir", "/nonexistent", "--json"])
        .args(arguments)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "an errored probe is no clean run");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn probes_after_a_sandbox_that_failed_for_good_are_skipped() {
    let report = report(&["--probes", "egress,envelope-reuse"]);
    assert_eq!(report.final_sandbox_state, State::Failed);
    let Summary { total, errored, skipped, .. } = report.summary;
    assert_eq!((total, errored, skipped, report.probes.len()), (2, 1, 1, 1));
}

#[test]
fn the_program_prints_a_report_of_schema_1_0() {
    // One probe needs no machine and passes; the other finds no image.
    let report = report(&["--probes", "envelope-reuse,stale-image", "--without", "anchors"]);
    assert_eq!((report.schema_version.as_str(), report.backend.as_str()), ("1.0", "kvm"));
    assert!(OffsetDateTime::parse(&report.generated_at, &Rfc3339).is_ok());
    assert_eq!(report.final_sandbox_state, State::NotBooted);
    assert!(report.latency.is_empty());
    assert!(report.notes.iter().any(|note| note.contains("anchors")), "{:?}", report.notes);
    let Summary { total, passed, failed, errored, skipped } = report.summary;
    assert_eq!((total, passed, failed, errored, skipped), (2, 1, 0, 1, 0));

    let probe = |name: &str| report.probes.iter().find(|probe| probe.name == name).unwrap();
    let (passed, errored) = (probe("envelope-reuse"), probe("stale-image"));
    assert_eq!((&passed.attacker_class, &passed.expectation), (&Class::A8, &Expected::ShouldFail));
    assert!(passed.passed && !passed.errored && passed.error_message.is_none());
    assert!(passed.duration_ms > 0.0 && passed.evidence.is_object());
    assert!(!errored.passed && errored.errored);
    assert!(errored.error_message.as_ref().is_some_and(|message| !message.is_empty()));
    assert_eq!(errored.attacker_class, Class::A6);
    for probe in &report.probes {
        assert_eq!(probe.validated_against, "validated-kvm");
        assert!(!probe.description.is_empty() && !probe.reason.is_empty());
    }
}

#[test]
fn every_distribution_has_the_names_of_the_schema() {
    let mut registry = Registry::default();
    let measures = FnProbe {
        name: "measures",
        class: AttackerClass::Latency,
        expectation: Expectation::ShouldPass,
        description: "Measures nothing in particular",
        repeats: true,
        run: |testbed| {
            let samples: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
            testbed.measured("x", &samples);
            Ok(Verdict::of(&[], "measured", json!({})))
        },
    };
    registry.add(measures).unwrap();
    let plan = Plan::new(SandboxSpec::new(ImageSource::directory("/nonexistent")));
    let report = redteam::run(plan, &registry, |_| ()).unwrap();
    let text = serde_json::to_string(&report).unwrap();
    let report: Report = serde_json::from_str(&text).unwrap();
    let Latency { samples, p50_ms, p90_ms, p95_ms, p99_ms, mean_ms, min_ms, max_ms } =
        &report.latency["x"];
    assert_eq!(*samples, 200);
    let found = [p50_ms, p90_ms, p95_ms, p99_ms, mean_ms, min_ms, max_ms];
    let expected = ["100", "180", "190", "198", "100.5", "1", "200"];
    assert_eq!(found.map(ToString::to_string), expected);
    let probe = &report.probes[0];
    assert_eq!(
        (&probe.attacker_class, &probe.expectation),
        (&Class::Latency, &Expected::ShouldPass)
    );
}

#[test]
fn every_class_and_expectation_of_a_probe_is_one_of_the_schema() {
    for probe in Registry::built_in().select(&redteam::Selection::All).unwrap() {
        let info = probe.info();
        let class: Result<Class, _> =
            serde_json::from_value(serde_json::to_value(info.class).unwrap());
        let expectation: Result<Expected, _> =
            serde_json::from_value(serde_json::to_value(info.expectation).unwrap());
        assert!(class.is_ok() && expectation.is_ok(), "{info:?}");
    }
}
