//! A probe that another crate adds, with a set-up and a tear-down of its own, against a backend
//! that is no machine.
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use redteam::{
    AttackerClass, Expectation, Guest, Plan, Probe, ProbeError, ProbeInfo, Registry, Testbed,
    Verdict,
};
use sandbox::{
    Backend, BootReport, ImageSource, QueryAnswer, QueryKind, ResetOutcome, Sandbox, SandboxError,
    SandboxSpec, SandboxState, ToolCall, ToolOutcome, VerifiedReset,
};
use serde_json::json;

/// Puts a file on the host, and says whether the sandbox's state is what it should be.
struct HostFile {
    file: PathBuf,
}

impl Probe for HostFile {
    fn info(&self) -> ProbeInfo {
        ProbeInfo {
            name: "host-file",
            class: AttackerClass::A3,
            expectation: Expectation::ShouldFail,
            description: "Puts a file on the host and looks at the sandbox",
            repeats: false,
        }
    }

    fn set_up(&self, _: &Testbed) -> Result<(), ProbeError> {
        Ok(fs::write(&self.file, "secret")?)
    }

    fn run(&self, testbed: &Testbed) -> Result<Verdict, ProbeError> {
        if !self.file.exists() {
            return Err(ProbeError::Control("there is no file".into()));
        }
        let sandbox = testbed.sandbox(Guest::Shipped)?;
        let breaches: Vec<String> = match sandbox.state() {
            SandboxState::Ready => Vec::new(),
            other => vec![format!("the sandbox is {other}")],
        };
        Ok(Verdict::of(&breaches, "the sandbox is ready", json!({"file": self.file})))
    }

    fn tear_down(&self, _: &Testbed) -> Result<(), ProbeError> {
        Ok(fs::remove_file(&self.file)?)
    }
}

/// A sandbox that runs nothing.
struct Nothing;

fn unavailable<T>() -> Result<T, SandboxError> {
    Err(SandboxError::NotAvailable { reason: "it runs nothing".into() })
}

impl Sandbox for Nothing {
    fn boot(&self) -> Result<BootReport, SandboxError> {
        unavailable()
    }

    fn execute_tool(&self, _: ToolCall) -> Result<ToolOutcome, SandboxError> {
        unavailable()
    }

    fn reset(&self) -> Result<ResetOutcome, SandboxError> {
        unavailable()
    }

    fn reset_and_verify(&self) -> Result<VerifiedReset, SandboxError> {
        unavailable()
    }

    fn query(&self, _: QueryKind) -> Result<QueryAnswer, SandboxError> {
        unavailable()
    }

    fn shutdown(&self) {}

    fn state(&self) -> SandboxState {
        SandboxState::NotBooted
    }
}

/// Makes sandboxes that run nothing.
#[derive(Debug)]
struct NothingBackend;

impl Backend for NothingBackend {
    fn name(&self) -> &'static str {
        "nothing"
    }

    fn make(&self, _: SandboxSpec) -> Arc<dyn Sandbox> {
        Arc::new(Nothing)
    }
}

fn plan() -> Plan {
    let sandbox = SandboxSpec::new(ImageSource::directory("/nonexistent"));
    Plan { backend: Arc::new(NothingBackend), ..Plan::new(sandbox) }
}

#[test]
fn a_probe_of_another_crate_runs_among_the_others_and_cleans_up() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    let mut registry = Registry::built_in();
    registry.add(HostFile { file: file.clone() }).unwrap();
    let plan = Plan { selection: "envelope-reuse,host-file".parse().unwrap(), ..plan() };
    let report = redteam::run(plan, &registry, |_| ()).unwrap();
    let names: Vec<&str> = report.probes.iter().map(|probe| probe.name.as_str()).collect();
    assert_eq!(names, ["envelope-reuse", "host-file"]);
    assert_eq!(report.backend, "nothing");
    // The set-up has run, the sandbox does not boot, and the tear-down has run.
    let own = &report.probes[1];
    assert!(own.errored, "{own:?}");
    assert!(own.error_message.as_ref().unwrap().contains("it runs nothing"), "{own:?}");
    assert!(!file.exists());
}

#[test]
fn a_set_up_that_fails_is_no_verdict() {
    let directory = tempfile::tempdir().unwrap();
    let mut registry = Registry::default();
    registry.add(HostFile { file: directory.path().join("none/secret") }).unwrap();
    let report = redteam::run(plan(), &registry, |_| ()).unwrap();
    assert_eq!((report.summary.total, report.summary.errored), (1, 1));
    assert!(report.probes[0].error_message.as_ref().unwrap().contains("set-up"));
}

#[test]
fn what_looks_into_a_machine_says_that_the_backend_has_none() {
    let plan = Plan { selection: "lat-boot".parse().unwrap(), ..plan() };
    let report = redteam::run(plan, &Registry::built_in(), |_| ()).unwrap();
    let message = report.probes[0].error_message.clone().unwrap();
    assert!(message.contains("--sandbox kvm") && message.contains("nothing"), "{message}");
}
