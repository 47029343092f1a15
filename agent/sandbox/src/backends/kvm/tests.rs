//! What needs no guest. Sandboxes with real guests are tested in the crate `integration-tests`.

use std::time::Duration;

use super::*;
use crate::{Backend, ImageSource, Resets};

fn spec(dir: &str) -> SandboxSpec {
    SandboxSpec::new(ImageSource::directory(dir)).with_resets(Resets::None)
}

fn sandbox() -> KvmSandbox {
    KvmSandbox::new(spec("/nonexistent"), KvmConfig::default())
}

fn call() -> ToolCall {
    ToolCall::new("echo", serde_json::Map::new())
}

#[test]
fn nothing_works_before_a_boot_and_everything_says_so() {
    let sandbox = sandbox();
    assert_eq!(sandbox.state(), SandboxState::NotBooted);
    let error = sandbox.execute_tool(call()).unwrap_err();
    assert_eq!(error.code(), "SANDBOX_NOT_AVAILABLE");
    assert!(error.to_string().contains("boot it first"), "{error}");
    let error = sandbox.query(QueryKind::MemUsage).unwrap_err();
    assert_eq!(error.code(), "SANDBOX_NOT_AVAILABLE");
    for error in [
        sandbox.reset().unwrap_err(),
        sandbox.reset_and_verify().unwrap_err(),
        sandbox.reset_verified().unwrap_err(),
    ] {
        assert!(error.to_string().contains("boot it first"), "{error}");
    }
    assert!(sandbox.baseline().is_none());
}

#[test]
fn an_absent_image_is_not_available_and_the_state_says_why() {
    let sandbox = sandbox();
    let error = sandbox.boot().unwrap_err();
    assert_eq!(error.code(), "SANDBOX_NOT_AVAILABLE");
    assert!(error.to_string().contains("/nonexistent/vmlinux"), "{error}");
    assert_eq!(sandbox.state(), SandboxState::Failed { reason: error.to_string() });
    let later = sandbox.execute_tool(call()).unwrap_err();
    assert_eq!(later.code(), "SANDBOX_NOT_AVAILABLE");
    assert!(later.to_string().contains("/nonexistent/vmlinux"), "{later}");
}

#[test]
fn a_failed_boot_can_be_tried_again_and_shut_down_any_number_of_times() {
    let sandbox = sandbox();
    sandbox.boot().unwrap_err();
    assert_eq!(sandbox.boot().unwrap_err().code(), "SANDBOX_NOT_AVAILABLE");
    sandbox.shutdown();
    sandbox.shutdown();
    assert_eq!(sandbox.state(), SandboxState::NotBooted);
}

#[test]
fn a_sandbox_without_a_machine_takes_another_configuration() {
    let sandbox = sandbox();
    sandbox.boot().unwrap_err();
    sandbox.configure(spec("/elsewhere"), KvmConfig::default()).unwrap();
    let error = sandbox.boot().unwrap_err();
    assert!(error.to_string().contains("/elsewhere/vmlinux"), "{error}");
}

#[test]
fn a_sandbox_in_use_refuses_another_configuration() {
    let sandbox = sandbox();
    sandbox.lock().phase = Phase::Booting(None);
    sandbox.configure(spec("/nonexistent"), KvmConfig::default()).unwrap();
    let other = KvmConfig { guest_cid: 4, ..KvmConfig::default() };
    for (spec, config) in [
        (spec("/elsewhere"), KvmConfig::default()),
        (spec("/nonexistent").with_resets(Resets::Verified), KvmConfig::default()),
        (spec("/nonexistent"), other),
    ] {
        let error = sandbox.configure(spec, config).unwrap_err();
        assert_eq!(error.code(), "SANDBOX_NOT_AVAILABLE");
    }
}

#[test]
fn a_boot_waits_for_another_one_and_shares_its_fate() {
    let sandbox = Arc::new(sandbox());
    sandbox.lock().phase = Phase::Booting(None);
    let waiting = std::thread::spawn({
        let sandbox = Arc::clone(&sandbox);
        move || sandbox.boot().unwrap_err()
    });
    // Whether the thread waits already or comes late, it must not be told anything else.
    std::thread::sleep(Duration::from_millis(20));
    let error = SandboxError::BootFailed { reason: "no luck".into(), console: Vec::new() };
    let epoch = sandbox.lock().epoch;
    sandbox.finish_boot(epoch, Err(error)).unwrap_err();
    let told = waiting.join().unwrap();
    assert!(matches!(told.code(), "SANDBOX_BOOT_FAILED" | "SANDBOX_NOT_AVAILABLE"));
}

#[test]
fn a_shutdown_overtakes_a_boot() {
    let sandbox = sandbox();
    sandbox.lock().phase = Phase::Booting(None);
    let epoch = sandbox.lock().epoch;
    sandbox.shutdown();
    let late = SandboxError::BootFailed { reason: "late".into(), console: Vec::new() };
    let error = sandbox.finish_boot(epoch, Err(late)).unwrap_err();
    assert!(error.to_string().contains("shut down"), "{error}");
    assert_eq!(sandbox.state(), SandboxState::NotBooted);
}

/// A sandbox that is in no KVM machine.
struct Other;

impl Sandbox for Other {
    fn boot(&self) -> Result<BootReport, SandboxError> {
        Err(not_available("it is none"))
    }

    fn execute_tool(&self, _: ToolCall) -> Result<ToolOutcome, SandboxError> {
        Err(not_available("it is none"))
    }

    fn reset(&self) -> Result<ResetOutcome, SandboxError> {
        Err(not_available("it is none"))
    }

    fn reset_and_verify(&self) -> Result<VerifiedReset, SandboxError> {
        Err(not_available("it is none"))
    }

    fn query(&self, _: QueryKind) -> Result<QueryAnswer, SandboxError> {
        Err(not_available("it is none"))
    }

    fn shutdown(&self) {}

    fn state(&self) -> SandboxState {
        SandboxState::NotBooted
    }
}

#[test]
fn the_backend_makes_kvm_sandboxes_of_its_own_settings() {
    let config = KvmConfig { guest_cid: 77, ..KvmConfig::default() };
    assert!(crate::BACKEND_NAMES.contains(&config.name()));
    let made = config.make(spec("/nonexistent").with_resets(Resets::Verified));
    let kvm = KvmSandbox::of(made).unwrap();
    let inner = kvm.lock();
    assert_eq!((inner.config.guest_cid, inner.spec.resets), (77, Resets::Verified));
    assert!(KvmSandbox::of(Arc::new(Other)).is_none());
}
