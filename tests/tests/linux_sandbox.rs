//! The agent's sandbox on real guests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so by failing"
)]

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sandbox::{
    ImageSource, KvmConfig, KvmImage, KvmSandbox, QueryAnswer, QueryKind, Sandbox, SandboxError,
    SandboxSpec, SandboxState, StoppedBy, ToolCall, ToolOutcome,
};
use serde_json::{Map, Value, json};

fn spec() -> SandboxSpec {
    SandboxSpec {
        enable_tools: vec!["sh".into()],
        ..SandboxSpec::new(ImageSource::directory(integration_tests::image_dir()))
    }
}

fn booted() -> KvmSandbox {
    let sandbox = KvmSandbox::new(spec(), KvmConfig::default());
    sandbox.boot().unwrap();
    sandbox
}

fn call(tool: &str, params: &Value) -> ToolCall {
    ToolCall::new(tool, params.as_object().cloned().unwrap_or_default())
}

fn run(sandbox: &KvmSandbox, tool: &str, params: &Value) -> ToolOutcome {
    sandbox.execute_tool(call(tool, params)).unwrap()
}

fn stdout(sandbox: &KvmSandbox, tool: &str, params: &Value) -> String {
    let outcome = run(sandbox, tool, params);
    assert_eq!(outcome.exit_code, 0, "{tool}: {outcome:?}");
    String::from_utf8(outcome.stdout).unwrap()
}

#[test]
fn every_shipped_tool_does_what_it_says() {
    let sandbox = booted();
    assert_eq!(stdout(&sandbox, "echo", &json!({"message": "-n hällo"})), "-n hällo\n");
    assert_eq!(stdout(&sandbox, "whoami", &json!({})), "tool\n");
    assert!(stdout(&sandbox, "uname", &json!({})).starts_with("Linux bsm-sandbox 6.12"));
    assert_eq!(stdout(&sandbox, "uname", &json!({"flag": "-s"})), "Linux\n");
    assert!(stdout(&sandbox, "cat", &json!({"path": "/etc/passwd"})).contains("tool:x:1000"));
    assert!(stdout(&sandbox, "ls", &json!({})).contains("work"));
    assert!(stdout(&sandbox, "env", &json!({})).contains("PATH=/usr/bin:/bin"));
    assert!(stdout(&sandbox, "disk_usage", &json!({})).contains("/dev/root"));
    assert!(stdout(&sandbox, "process_table", &json!({})).contains("init"));
    assert!(stdout(&sandbox, "memory_usage", &json!({})).contains("Mem:"));
    let search = json!({"pattern": "^tool", "path": "/etc/passwd"});
    assert!(stdout(&sandbox, "text_search", &search).contains(":tool:x:1000"));
    let tail = json!({"path": "/etc/passwd", "lines": 1});
    assert_eq!(stdout(&sandbox, "tail_file", &tail).lines().count(), 1);
    let write = json!({"path": "/work/note.json", "content": "{\"a\": [1, 2]}"});
    assert_eq!(stdout(&sandbox, "write_file", &write), "");
    let query = json!({"path": "/work/note.json", "query": "$.a[1]"});
    assert_eq!(stdout(&sandbox, "json_query", &query), "2\n");
    let hash = stdout(&sandbox, "sha256_file", &json!({"path": "/work/note.json"}));
    assert_eq!(hash.split_whitespace().nth(1), Some("/work/note.json"), "{hash}");
    assert_eq!(stdout(&sandbox, "sh", &json!({"script": "echo $((6 * 7))"})), "42\n");
    assert_eq!(sandbox.state(), SandboxState::Ready);
}

#[test]
fn calls_that_cannot_work_never_reach_the_guest() {
    let mut spec = spec();
    spec.enable_tools.clear();
    let sandbox = KvmSandbox::new(spec, KvmConfig::default());
    sandbox.boot().unwrap();
    assert_eq!(run(&sandbox, "nonsense", &json!({})).exit_code, 127);
    assert_eq!(run(&sandbox, "sh", &json!({"script": "id"})).exit_code, 127);
    assert_eq!(run(&sandbox, "cat", &json!({})).exit_code, 254);
    assert_eq!(run(&sandbox, "cat", &json!({"path": 7})).exit_code, 254);
    assert_eq!(run(&sandbox, "uname", &json!({"flag": "--help"})).exit_code, 254);
    let write = json!({"path": "/work/../etc/passwd", "content": "x"});
    assert_eq!(run(&sandbox, "write_file", &write).exit_code, 254);
    let mut late = call("echo", &json!({"message": "x"}));
    late.deadline_ms = 0;
    let error = sandbox.execute_tool(late).unwrap_err();
    assert_eq!(error.code(), "SANDBOX_TOOL_TIMEOUT");
    assert_eq!(sandbox.state(), SandboxState::Ready);
}

#[test]
fn every_command_has_the_hosts_time_and_random_numbers_of_its_own() {
    let sandbox = booted();
    let seconds = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for _ in 0..2 {
        let before = seconds();
        let date = stdout(&sandbox, "sh", &json!({"script": "date +%s"}));
        let date: u64 = date.trim().parse().unwrap();
        assert!((before.saturating_sub(1)..=seconds() + 1).contains(&date), "{before}: {date}");
    }
    let uuid = json!({"path": "/proc/sys/kernel/random/uuid"});
    assert_ne!(stdout(&sandbox, "cat", &uuid), stdout(&sandbox, "cat", &uuid));
    assert_eq!(sandbox.state(), SandboxState::Ready);
}

#[test]
fn a_failing_tool_keeps_both_streams_and_its_exit_code() {
    let sandbox = booted();
    let script = json!({"script": r"printf 'out\377'; printf 'err\376' >&2; exit 9"});
    let outcome = run(&sandbox, "sh", &script);
    assert_eq!(outcome.exit_code, 9);
    assert_eq!(outcome.stdout, b"out\xff");
    assert_eq!(outcome.stderr, b"err\xfe");
    assert!(outcome.evidence_hash.starts_with("sha256:"));
}

#[test]
fn a_deadline_is_an_error_with_what_there_was() {
    let sandbox = booted();
    let mut slow = call("sh", &json!({"script": "echo before; sleep 100"}));
    slow.deadline_ms = 3000;
    let started = Instant::now();
    match sandbox.execute_tool(slow).unwrap_err() {
        SandboxError::ToolTimeout { deadline_ms, stopped_by, .. } => {
            assert_eq!(deadline_ms, 3000);
            // A very busy emulator may be too slow for the guest's own timer; then the host acts.
            if matches!(stopped_by, StoppedBy::Guest) {
                assert_eq!(sandbox.state(), SandboxState::Ready);
            }
        }
        other => panic!("{other}"),
    }
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[test]
fn ten_commands_and_queries_at_once_do_not_mix() {
    let sandbox = booted();
    std::thread::scope(|scope| {
        for index in 0..10 {
            let sandbox = &sandbox;
            scope.spawn(move || {
                let script = format!("sleep 0.{}; echo {index}", 9 - index);
                let outcome = run(sandbox, "sh", &json!({"script": script}));
                assert_eq!(outcome.stdout, format!("{index}\n").into_bytes());
            });
        }
        match sandbox.query(QueryKind::MemUsage) {
            Ok(QueryAnswer::MemUsage { bytes_used, bytes_total }) => {
                assert!(bytes_used < bytes_total);
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn booting_twice_is_once_and_a_shut_down_sandbox_boots_again() {
    let sandbox = booted();
    sandbox.boot().unwrap();
    let other = SandboxSpec { memory_mib: 64, ..spec() };
    let refused = sandbox.configure(other, KvmConfig::default()).unwrap_err();
    assert_eq!(refused.code(), "SANDBOX_NOT_AVAILABLE");
    sandbox.shutdown();
    sandbox.shutdown();
    assert_eq!(sandbox.state(), SandboxState::NotBooted);
    let refused = sandbox.execute_tool(call("echo", &json!({}))).unwrap_err();
    assert_eq!(refused.code(), "SANDBOX_NOT_AVAILABLE");
    sandbox.boot().unwrap();
    assert_eq!(stdout(&sandbox, "echo", &json!({"message": "again"})), "again\n");
}

#[test]
fn four_sandboxes_share_an_image_and_nothing_else() {
    let image = Arc::new(KvmImage::open(&spec().image).unwrap());
    assert!(image.is_verified());
    let sandboxes: Vec<KvmSandbox> = (0..4)
        .map(|index| {
            let config = KvmConfig { guest_cid: 3 + index, ..KvmConfig::default() };
            KvmSandbox::with_image(spec(), config, Arc::clone(&image))
        })
        .collect();
    std::thread::scope(|scope| {
        for (index, sandbox) in sandboxes.iter().enumerate() {
            scope.spawn(move || {
                sandbox.boot().unwrap();
                let path = "/work/mark";
                let write = json!({"path": path, "content": index.to_string()});
                assert_eq!(run(sandbox, "write_file", &write).exit_code, 0);
            });
        }
    });
    for (index, sandbox) in sandboxes.iter().enumerate() {
        let found = stdout(sandbox, "cat", &json!({"path": "/work/mark"}));
        assert_eq!(found, index.to_string());
    }
}

#[test]
fn a_failed_boot_names_the_reason_and_leaves_nothing_behind() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let sandbox = KvmSandbox::new(spec(), KvmConfig::default());
    let before = (descriptors(), threads());
    let directory = tempfile::tempdir().unwrap();
    let rootfs = directory.path().join("rootfs.ext4");
    // A superblock and nothing else: the kernel will find no file system it can mount.
    let mut bytes = vec![0_u8; 1 << 20];
    bytes[1024 + 0x38..][..2].copy_from_slice(&[0x53, 0xef]);
    std::fs::write(&rootfs, bytes).unwrap();
    let mut broken = spec();
    broken.image.rootfs = Some(rootfs);
    sandbox.configure(broken, KvmConfig::default()).unwrap();
    let error = sandbox.boot().unwrap_err();
    assert_eq!(error.code(), "SANDBOX_BOOT_FAILED", "{error}");
    assert!(error.to_string().contains("panic"), "{error}");
    assert!(matches!(sandbox.state(), SandboxState::Failed { .. } | SandboxState::NotBooted));
    drop(sandbox);
    assert_eq!((descriptors(), threads()), before);
}

#[test]
fn parameters_are_bytes_not_shell() {
    let sandbox = booted();
    for message in ["$(id); `id` | cat > /tmp/x", "--help", "\u{1f980}\u{301}\n\t\"'\\"] {
        let mut params = Map::new();
        params.insert("message".into(), json!(message));
        let outcome = sandbox.execute_tool(ToolCall::new("echo", params)).unwrap();
        assert_eq!(outcome.stdout, format!("{message}\n").into_bytes());
    }
}
