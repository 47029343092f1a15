//! Resets of real Linux guests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so by failing"
)]

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use integration_tests::{RawGuest, Received};
use sandbox::{
    BootPath, ImageSource, KvmConfig, KvmSandbox, QueryKind, Sandbox, SandboxError, SandboxSpec,
    SandboxState, StoppedBy, ToolCall, ToolOutcome,
};
use serde_json::{Value, json};
use vmm::Strategy;

/// For a guest to become idle.
const LIMIT: Duration = Duration::from_secs(10);

const STRATEGIES: [Strategy; 4] = [
    Strategy::CopyBack,
    Strategy::DropPrivate,
    Strategy::Hybrid { copy_pages: 100 },
    Strategy::FullCopy,
];

fn spec() -> SandboxSpec {
    SandboxSpec {
        enable_tools: vec!["sh".into()],
        ..SandboxSpec::new(ImageSource::directory(integration_tests::image_dir()))
    }
}

fn booted(spec: SandboxSpec, config: KvmConfig) -> KvmSandbox {
    let sandbox = KvmSandbox::new(spec, config);
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

/// What a tool can see of files and of processes that are not the kernel's.
const LOOK: &str = "ls -a /work /tmp; ps | grep -v '\\[' | grep -v ps; cat /work/secret";

#[test]
fn every_strategy_brings_a_linux_guest_back_bit_for_bit() {
    for strategy in STRATEGIES {
        let sandbox = booted(spec(), KvmConfig { strategy, ..KvmConfig::default() });
        let look = || run(&sandbox, "sh", &json!({"script": LOOK})).stdout;
        let before = look();
        assert_eq!(sandbox.reset_and_compare().unwrap().1.to_string(), "nothing");
        for cycle in 0..5 {
            shell(&sandbox, DISTURB);
            assert!(!sandbox.compare().unwrap().is_empty());
            let (outcome, left) = sandbox.reset_and_compare().unwrap();
            println!("{} cycle {cycle}: {:?}", strategy.name(), outcome.phases);
            assert_eq!(left.to_string(), "nothing", "{} cycle {cycle}", strategy.name());
            sandbox.query(QueryKind::MemUsage).unwrap();
            assert_eq!(String::from_utf8_lossy(&look()), String::from_utf8_lossy(&before));
            sandbox.reset().unwrap();
        }
    }
}

/// They stay writable, so that a command does not pay for a fault in each of them; in exchange every
/// reset restores them, also where no command ran.
#[test]
fn what_every_command_writes_is_learned_and_put_back_each_time() {
    for (strategy, learns) in [(Strategy::CopyBack, true), (Strategy::DropPrivate, false)] {
        let sandbox = booted(spec(), KvmConfig { strategy, ..KvmConfig::default() });
        run(&sandbox, "echo", &json!({"message": "x"}));
        let after_a_command = sandbox.reset().unwrap().dirty_pages;
        let after_nothing = sandbox.reset().unwrap().dirty_pages;
        println!("{}: {after_a_command} pages, {after_nothing}", strategy.name());
        assert_eq!(after_nothing * 2 > after_a_command, learns, "{}", strategy.name());
    }
}

#[test]
fn several_vcpus_and_memory_above_the_hole_come_back() {
    for (vcpus, memory_mib) in [(2, 128), (4, 256), (1, 3200)] {
        let sandbox = booted(SandboxSpec { vcpus, memory_mib, ..spec() }, KvmConfig::default());
        for _ in 0..3 {
            shell(&sandbox, DISTURB);
            let left = sandbox.reset_and_compare().unwrap().1;
            assert_eq!(left.to_string(), "nothing", "{vcpus} vCPUs, {memory_mib} MiB");
        }
        assert_eq!(run(&sandbox, "whoami", &json!({})).stdout, b"tool\n");
    }
}

#[test]
fn a_thousand_resets_give_a_thousand_uuids_and_the_right_time() {
    let sandbox = booted(spec(), KvmConfig::default());
    let mut seen = HashSet::new();
    for turn in 0..1000 {
        let uuid = run(&sandbox, "cat", &json!({"path": "/proc/sys/kernel/random/uuid"})).stdout;
        assert!(seen.insert(uuid), "a uuid came twice, turn {turn}");
        sandbox.reset().unwrap();
        if turn % 50 == 0 {
            let guest: u64 = shell(&sandbox, "date +%s").trim().parse().unwrap();
            let host = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            assert!(guest.abs_diff(host) <= 1, "the guest says {guest}, the host {host}");
            sandbox.reset().unwrap();
        }
    }
    assert_eq!(sandbox.reset_and_compare().unwrap().1.to_string(), "nothing");
}

#[test]
fn a_timer_still_fires_after_many_resets() {
    let sandbox = booted(spec(), KvmConfig::default());
    for _ in 0..200 {
        run(&sandbox, "echo", &json!({"message": "x"}));
        sandbox.reset().unwrap();
    }
    let begun = Instant::now();
    shell(&sandbox, "sleep 1");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(900), "{took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn forks_share_one_golden_state_and_nothing_else() {
    let first = booted(spec(), KvmConfig::default());
    let forks: Vec<_> = (0..3).map(|_| KvmSandbox::fork_of(&first).unwrap()).collect();
    for (index, fork) in forks.iter().enumerate() {
        let report = fork.boot().unwrap();
        assert_eq!(report.path, BootPath::Fork);
        let script = format!("echo {index} > /work/mine; cat /work/*");
        assert_eq!(shell(fork, &script), format!("{index}\n"));
    }
    let mut uuids = HashSet::new();
    for fork in forks.iter().chain([&first]) {
        fork.reset().unwrap();
        assert_eq!(shell(fork, "ls -A /work"), "");
        uuids.insert(run(fork, "cat", &json!({"path": "/proc/sys/kernel/random/uuid"})).stdout);
    }
    assert_eq!(uuids.len(), 4);
    drop(first);
    shell(&forks[0], DISTURB);
    assert_eq!(forks[0].reset_and_compare().unwrap().1.to_string(), "nothing");
}

#[test]
fn a_reset_ends_calls_that_are_under_way() {
    let sandbox = booted(spec(), KvmConfig::default());
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let params = json!({"script": "while :; do echo x; done"});
            let params = params.as_object().cloned().unwrap();
            sandbox.execute_tool(ToolCall::new("sh", params))
        });
        std::thread::sleep(Duration::from_secs(1));
        let begun = Instant::now();
        // In the middle of a transfer.
        sandbox.reset().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(busy.join().unwrap().is_err());
    });
    assert_eq!(sandbox.state(), SandboxState::Ready);
    assert_eq!(sandbox.reset_and_compare().unwrap().1.to_string(), "nothing");
    assert_eq!(run(&sandbox, "whoami", &json!({})).stdout, b"tool\n");
}

#[test]
fn a_guest_that_stands_still_is_reset_away_at_the_deadline() {
    let sandbox = booted(spec(), KvmConfig::default());
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let params = json!({"script": "sleep 1000"}).as_object().cloned().unwrap();
            let call = ToolCall { deadline_ms: 1000, ..ToolCall::new("sh", params) };
            let begun = Instant::now();
            (sandbox.execute_tool(call), begun.elapsed())
        });
        std::thread::sleep(Duration::from_millis(300));
        // Neither the tool nor the guest program gets to run any more.
        sandbox.machine().unwrap().pause().unwrap();
        let (result, took) = caller.join().unwrap();
        println!("over after {took:?}, with a deadline of 1 s");
        let Err(SandboxError::ToolTimeout { stopped_by, .. }) = result else {
            panic!("{result:?}")
        };
        assert_eq!(stopped_by, StoppedBy::Host);
    });
    assert_eq!(sandbox.state(), SandboxState::Ready);
    assert_eq!(run(&sandbox, "whoami", &json!({})).stdout, b"tool\n");
    assert_eq!(sandbox.reset_and_compare().unwrap().1.to_string(), "nothing");
}

#[test]
fn a_machine_that_has_stopped_is_replaced_by_a_fork() {
    let sandbox = booted(spec(), KvmConfig::default());
    sandbox.machine().unwrap().shutdown();
    let params = json!({"message": "x"}).as_object().cloned().unwrap();
    assert!(sandbox.execute_tool(ToolCall::new("echo", params)).is_err());
    assert!(matches!(sandbox.state(), SandboxState::Failed { .. }));
    assert_eq!(sandbox.boot().unwrap().path, BootPath::Fork);
    assert_eq!(run(&sandbox, "whoami", &json!({})).stdout, b"tool\n");
}

#[test]
fn a_connection_that_the_guest_tore_down_is_back_after_a_reset() {
    let guest = RawGuest::boot("");
    let mut connection = guest.connect();
    assert_eq!(connection.run("whoami", &json!({}), 5000)["stdout"], "tool\n");
    guest.machine.capture_when_idle(LIMIT).unwrap();
    for strategy in STRATEGIES {
        // What is not a message ends the connection.
        connection.send_bytes(b"garbage");
        while let Received::Frame(_) = connection.receive() {}
        guest.machine.reset(strategy).unwrap();
        assert_eq!(connection.run("whoami", &json!({}), 5000)["stdout"], "tool\n");
        guest.machine.reset(strategy).unwrap();
    }
}

#[test]
fn the_host_may_close_and_the_guest_may_leave_connections_half_open() {
    let guest = RawGuest::boot("");
    let control = guest.connect();
    guest.machine.capture_when_idle(LIMIT).unwrap();
    for cycle in 0..5 {
        let kept: Vec<_> = (0..8).map(|_| guest.connect()).collect();
        for (index, connection) in kept.iter().enumerate() {
            match index % 3 {
                0 => connection.stream.shutdown(std::net::Shutdown::Write).unwrap(),
                1 => connection.stream.shutdown(std::net::Shutdown::Both).unwrap(),
                _ => {}
            }
        }
        guest.machine.pause().unwrap();
        guest.machine.reset(Strategy::CopyBack).unwrap();
        assert_eq!(guest.machine.differences().unwrap().to_string(), "nothing", "cycle {cycle}");
        guest.machine.resume().unwrap();
        for connection in kept {
            let mut stream = &connection.stream;
            assert!(std::io::Write::write(&mut stream, b"x").is_err(), "it knows it is gone");
        }
    }
    drop(control);
    guest.assert_works();
}

#[test]
fn a_snapshot_file_starts_a_machine_without_booting() {
    // In a nested machine /tmp is the host's, over 9p: no place to write to. /run is not.
    let directory = tempfile::tempdir_in("/run").or_else(|_| tempfile::tempdir()).unwrap();
    let file = directory.path().join("snapshot");
    {
        let sandbox = booted(spec(), KvmConfig::default());
        sandbox.save_snapshot(&file).unwrap();
    }
    let sandbox = KvmSandbox::from_snapshot(spec(), KvmConfig::default(), &file).unwrap();
    let report = sandbox.boot().unwrap();
    assert_eq!(report.path, BootPath::Snapshot);
    println!("ready {:?} after a snapshot was loaded", report.total);
    assert_eq!(run(&sandbox, "whoami", &json!({})).stdout, b"tool\n");
    for _ in 0..3 {
        shell(&sandbox, DISTURB);
        assert_eq!(sandbox.reset_and_compare().unwrap().1.to_string(), "nothing");
    }
    let other = SandboxSpec { memory_mib: 64, ..spec() };
    let refused = KvmSandbox::from_snapshot(other, KvmConfig::default(), &file).err().unwrap();
    let refused = refused.to_string();
    assert!(refused.contains("memory size"), "{refused}");
}
