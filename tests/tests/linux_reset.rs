//! Resets of real Linux guests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so by failing"
)]

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use brainstorm_agent::sandbox::{
    BootPath, ImageSource, KvmSandbox, QueryKind, Sandbox, SandboxConfig, SandboxError,
    SandboxState, StoppedBy, ToolCall, ToolOutcome,
};
use serde_json::{Value, json};
use vmm::Strategy;

const STRATEGIES: [Strategy; 4] = [
    Strategy::CopyBack,
    Strategy::DropPrivate,
    Strategy::Hybrid { copy_pages: 100 },
    Strategy::FullCopy,
];

fn config() -> SandboxConfig {
    SandboxConfig {
        image: ImageSource::directory(integration_tests::image_dir()),
        vcpus: 1,
        memory_mib: 128,
        guest_cid: 3,
        guest_port: None,
        enable_tools: vec!["sh".into()],
        strategy: Some(Strategy::CopyBack),
    }
}

fn booted(config: SandboxConfig) -> KvmSandbox {
    let sandbox = KvmSandbox::new(config);
    sandbox.boot().unwrap();
    sandbox
}

fn run(sandbox: &KvmSandbox, tool: &str, params: &Value) -> ToolOutcome {
    let call = ToolCall::new(tool, params.as_object().cloned().unwrap_or_default());
    sandbox.execute_tool(call).unwrap()
}

fn shell(sandbox: &KvmSandbox, script: &str) -> String {
    let outcome = run(sandbox, "sh", &json!({"script": script}));
    assert_eq!(outcome.exit_code, 0, "{outcome:?}");
    String::from_utf8(outcome.stdout).unwrap()
}

/// Nothing of this may be left after a reset: files on disk and in memory, a process that stays, a
/// timer, a socket that is open.
const DISTURB: &str = "echo secret > /work/secret; dd if=/dev/urandom of=/tmp/noise bs=4096 \
     count=300 2>/dev/null; sync; sleep 1000 & ls /work";

#[test]
fn every_strategy_brings_a_linux_guest_back_bit_for_bit() {
    for strategy in STRATEGIES {
        let sandbox = booted(SandboxConfig { strategy: Some(strategy), ..config() });
        let before = shell(&sandbox, "ls -la /work /tmp; ps");
        sandbox.reset().unwrap();
        for cycle in 0..5 {
            shell(&sandbox, DISTURB);
            let differences = sandbox.compare().unwrap();
            assert!(!differences.is_empty());
            let outcome = sandbox.reset().unwrap();
            println!("{} cycle {cycle}: {:?}", strategy.name(), outcome.report);
            sandbox.query(QueryKind::MemUsage).unwrap();
            assert_eq!(shell(&sandbox, "ls -la /work /tmp; ps"), before);
            sandbox.reset().unwrap();
        }
    }
}
