//! What needs no guest. Sandboxes with real guests are tested in the crate `integration-tests`.

use crate::image::ImageSource;
use std::time::Duration;

use super::*;

fn config(dir: &str) -> SandboxConfig {
    SandboxConfig {
        image: ImageSource::directory(dir),
        vcpus: 1,
        memory_mib: 64,
        guest_cid: 3,
        guest_port: None,
        enable_tools: Vec::new(),
        strategy: None,
        verify: false,
        integrity: vmm::IntegrityPlan::default(),
    }
}

fn call() -> ToolCall {
    ToolCall::new("echo", serde_json::Map::new())
}

#[test]
fn nothing_works_before_a_boot_and_everything_says_so() {
    let sandbox = KvmSandbox::new(config("/nonexistent"));
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
    let sandbox = KvmSandbox::new(config("/nonexistent"));
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
    let sandbox = KvmSandbox::new(config("/nonexistent"));
    sandbox.boot().unwrap_err();
    assert_eq!(sandbox.boot().unwrap_err().code(), "SANDBOX_NOT_AVAILABLE");
    sandbox.shutdown();
    sandbox.shutdown();
    assert_eq!(sandbox.state(), SandboxState::NotBooted);
}

#[test]
fn a_sandbox_without_a_machine_takes_another_configuration() {
    let sandbox = KvmSandbox::new(config("/nonexistent"));
    sandbox.boot().unwrap_err();
    sandbox.configure(config("/elsewhere")).unwrap();
    let error = sandbox.boot().unwrap_err();
    assert!(error.to_string().contains("/elsewhere/vmlinux"), "{error}");
}

#[test]
fn a_sandbox_in_use_refuses_another_configuration() {
    let sandbox = KvmSandbox::new(config("/nonexistent"));
    sandbox.lock().phase = Phase::Booting(None);
    sandbox.configure(config("/nonexistent")).unwrap();
    let error = sandbox.configure(config("/elsewhere")).unwrap_err();
    assert_eq!(error.code(), "SANDBOX_NOT_AVAILABLE");
}

#[test]
fn a_boot_waits_for_another_one_and_shares_its_fate() {
    let sandbox = Arc::new(KvmSandbox::new(config("/nonexistent")));
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
    let sandbox = KvmSandbox::new(config("/nonexistent"));
    sandbox.lock().phase = Phase::Booting(None);
    let epoch = sandbox.lock().epoch;
    sandbox.shutdown();
    let late = SandboxError::BootFailed { reason: "late".into(), console: Vec::new() };
    let error = sandbox.finish_boot(epoch, Err(late)).unwrap_err();
    assert!(error.to_string().contains("shut down"), "{error}");
    assert_eq!(sandbox.state(), SandboxState::NotBooted);
}
