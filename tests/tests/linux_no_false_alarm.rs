//! The reverse of `linux_lies`: on machines that are not tampered with, every tool, over and over,
//! and not one alarm; and nothing of one command is there for the next.
//!
//! `BSM_COMMANDS` says how many commands; with `--nocapture` the test prints what they cost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so by failing"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use sandbox::{
    ImageSource, KvmConfig, KvmSandbox, Resets, Sandbox, SandboxSpec, ToolCall, ToolOutcome,
};
use serde_json::{Value, json};

/// Every call twice.
const COMMANDS: usize = 42;
const MARK: &str = "leak-";
/// Is killed at its deadline, which is short.
const ENDLESS: &str = "f() { f | f & }; f; sleep 1000";

/// Looks where a tool can look, and leaves a marker where it can leave one: files, processes, their
/// environment and their names.
fn marking(number: usize) -> Value {
    let mark = format!("{MARK}{number}");
    let script = format!(
        "ls -A /work /tmp /dev/shm 2>&1
         cat /work/* /tmp/* /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'
         echo {mark} > /work/{mark}
         echo {mark} > /tmp/{mark}
         exec 7< /work/{mark}
         MARK={mark} setsid sleep 1000{number} &
         mkdir /work/{mark}-directory && ln -s /etc/passwd /work/{mark}-directory/{mark}
         sync
         echo marked"
    );
    json!({"script": script})
}

/// Parameters of a call, by the number of the command.
type Params = fn(usize) -> Value;

/// One call after the other: every tool of the image, some of them in several ways.
fn calls() -> Vec<(&'static str, Params)> {
    vec![
        ("sh", marking),
        ("echo", |number| json!({"message": format!("number {number}")})),
        ("cat", |_| json!({"path": "/etc/passwd"})),
        ("sh", marking),
        ("ls", |_| json!({"path": "/work"})),
        ("ls", |_| json!({"path": "/tmp"})),
        ("env", |_| json!({})),
        ("disk_usage", |_| json!({})),
        (
            "write_file",
            |number| json!({"path": format!("/work/{MARK}{number}"), "content": format!("{MARK}{number}")}),
        ),
        ("process_table", |_| json!({})),
        ("memory_usage", |_| json!({})),
        ("sh", |_| json!({"script": "x=y; while :; do x=$x$x; done"})),
        ("json_query", |_| json!({"path": "/etc/passwd", "query": ".a"})),
        ("sha256_file", |_| json!({"path": "/etc/passwd"})),
        (
            "sh",
            |_| json!({"script": "dd if=/dev/urandom of=/work/big bs=64k count=20 2>&1; kill -SEGV $$"}),
        ),
        ("tail_file", |_| json!({"path": "/etc/passwd", "lines": 3})),
        ("text_search", |_| json!({"path": "/etc/passwd", "pattern": "root"})),
        ("cat", |_| json!({"path": "/nonexistent"})),
        ("uname", |_| json!({"flag": "-a"})),
        ("sh", |_| json!({"script": ENDLESS})),
        ("whoami", |_| json!({})),
    ]
}

/// Numbers of the commands whose markers are in a text.
fn marks(outcome: &ToolOutcome) -> BTreeSet<usize> {
    let text = String::from_utf8_lossy(&outcome.stdout).into_owned()
        + &String::from_utf8_lossy(&outcome.stderr);
    let after = text.split(MARK).skip(1);
    let number = |rest: &str| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    after.filter_map(number).collect()
}

fn half(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[test]
fn every_tool_over_and_over_and_not_one_alarm() {
    let commands = std::env::var("BSM_COMMANDS").map_or(COMMANDS, |number| number.parse().unwrap());
    let image = ImageSource::directory(integration_tests::image_dir());
    let calls = calls();
    let manifest = image.manifest().unwrap().unwrap();
    for tool in &manifest.tools {
        assert!(calls.iter().any(|(name, _)| *name == tool.name), "{} is not called", tool.name);
    }
    let spec = SandboxSpec {
        enable_tools: vec!["sh".into()],
        resets: Resets::Verified,
        ..SandboxSpec::new(image)
    };
    let sandbox = KvmSandbox::new(spec, KvmConfig::default());
    sandbox.boot().unwrap();
    let (mut verifying, mut resetting, mut asking) = (Vec::new(), Vec::new(), Vec::new());
    let (mut suspicions, mut marked) = (0, 0);
    for (number, (tool, params)) in calls.iter().cycle().take(commands).enumerate() {
        let params = params(number).as_object().cloned().unwrap();
        let endless = params.get("script").is_some_and(|script| script == ENDLESS);
        let deadline_ms = if endless { 1500 } else { 20_000 };
        let call = ToolCall { deadline_ms, ..ToolCall::new(*tool, params) };
        // One that was killed is as good a reason for a reset as any other.
        if let Ok(outcome) = sandbox.execute_tool(call) {
            let mut found = marks(&outcome);
            // A tool may see its own mark, and no other tool's.
            found.remove(&number);
            assert!(found.is_empty(), "{number}, {tool}: {found:?} leaked: {outcome:?}");
            marked += usize::from(outcome.stdout.ends_with(b"marked\n"));
        }
        let verified = sandbox.reset_verified().unwrap();
        let verification = verified.verification;
        assert!(verification.passed(), "{number}, {tool}: {verification:#?}");
        suspicions += verification.suspicions.len();
        let parts = verification.parts;
        verifying.push(parts.total());
        asking.push(parts.guest);
        resetting.push(verified.outcome.unwrap().took);
    }
    assert!(marked > 0, "no tool left a marker");
    println!(
        "{commands} commands, {marked} marked, 0 alarms, 0 leaks, {suspicions} suspicions; half of \
         them: reset and verification {:?}, all sources {:?}, the guest's answers {:?}",
        half(resetting),
        half(verifying),
        half(asking),
    );
}
