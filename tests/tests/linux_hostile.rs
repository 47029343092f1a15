//! Tools that try everything short of an exploit. After each one the guest still works.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so by failing"
)]

use std::time::{Duration, Instant};

use integration_tests::{RawGuest, dispatch};
use serde_json::{Value, json};

fn guest() -> RawGuest {
    RawGuest::boot("BSM_ENABLE_TOOLS=sh")
}

fn sh(guest: &RawGuest, script: &str, deadline_ms: i64) -> Value {
    guest.connect().run("sh", &json!({"script": script}), deadline_ms)
}

/// Runs `script` and then checks that the guest has no process of it left and still works.
fn survives(script: &str, deadline_ms: i64) -> Value {
    let guest = guest();
    let result = sh(&guest, script, deadline_ms);
    guest.assert_works();
    let left = sh(&guest, "ps -o user,comm | grep -c '^1000\\|^tool'", 10_000);
    // The shell, ps and grep themselves.
    let count: u32 = left["stdout"].as_str().unwrap().trim().parse().unwrap();
    assert!(count <= 4, "{left}");
    result
}

#[test]
fn a_fork_bomb_is_contained_and_killed() {
    let result = survives("f() { f | f & }; f; while :; do f; done", 1500);
    assert_ne!(result["exit_code"], 0, "{result}");
}

#[test]
fn filling_tmp_fails_for_the_tool_only() {
    let result = survives("dd if=/dev/zero of=/tmp/big bs=1M count=512", 20_000);
    assert_ne!(result["exit_code"], 0, "{result}");
}

#[test]
fn exhausting_memory_is_an_out_of_memory_kill() {
    let result = survives("a=x; while :; do a=$a$a; done", 20_000);
    assert_ne!(result["exit_code"], 0, "{result}");
}

#[test]
fn the_guest_program_cannot_be_killed() {
    let result = survives("kill -9 1; kill -TERM 1; kill -STOP 1; echo status $?", 10_000);
    assert_eq!(result["stdout"], "status 1\n", "{result}");
}

#[test]
fn closing_stdout_is_not_the_end_of_a_tool() {
    let result = survives("exec >&-; exec 2>&-; sleep 1; exit 7", 10_000);
    assert_eq!(result["exit_code"], 7, "{result}");
}

#[test]
fn a_tool_that_ignores_sigterm_dies_at_its_deadline() {
    let guest = guest();
    let started = Instant::now();
    let result = sh(&guest, "trap '' TERM INT HUP; while :; do sleep 1; done", 700);
    assert_eq!(result["exit_code"], 137, "{result}");
    assert_eq!(result["reason"], "deadline_exceeded");
    assert!(started.elapsed() < Duration::from_secs(20));
    guest.assert_works();
}

#[test]
fn a_daemon_holding_the_pipe_does_not_hold_the_result() {
    let guest = guest();
    let started = Instant::now();
    let result = sh(&guest, "setsid sleep 300 & echo out; exit 3", 60_000);
    assert_eq!(result["exit_code"], 3, "{result}");
    assert_eq!(result["stdout"], "out\n");
    assert!(started.elapsed() < Duration::from_secs(30));
    let left = sh(&guest, "ps | grep -c '[s]leep 300'", 10_000);
    assert_eq!(left["stdout"], "0\n", "{left}");
}

#[test]
fn partial_output_survives_the_deadline() {
    let guest = guest();
    let result = sh(&guest, "echo before; echo warned >&2; sleep 60", 1000);
    assert_eq!(result["exit_code"], 137);
    assert_eq!(result["stdout"], "before\n");
    assert_eq!(result["stderr"], "warned\n");
}

#[test]
fn a_signal_gives_128_plus_its_number() {
    let guest = guest();
    let result = sh(&guest, "kill -SEGV $$", 10_000);
    assert_eq!(result["exit_code"], 128 + 11, "{result}");
    assert_eq!(result["reason"], "signal");
}

#[test]
fn seventeen_mebibytes_are_cut_marked_and_counted() {
    let guest = guest();
    let result = sh(&guest, "dd if=/dev/zero bs=1M count=17 2>/dev/null | tr '\\0' a", 60_000);
    assert_eq!(result["exit_code"], 0, "{:.300}", result.to_string());
    assert_eq!(result["stdout_truncated"], true);
    assert_eq!(result["stdout_bytes"], 17 << 20);
    assert!(result["stdout"].as_str().unwrap().len() <= 4 << 20);
    guest.assert_works();
}

#[test]
fn bytes_that_are_not_utf8_arrive_unchanged() {
    let guest = guest();
    let result = sh(&guest, r"printf '\000\377\033[31m\200end'", 10_000);
    assert_eq!(result["stdout_encoding"], "base64");
    assert_eq!(result["stdout"], "AP8bWzMxbYBlbmQ=");
}

#[test]
fn a_tool_is_an_unprivileged_user() {
    let guest = guest();
    let result = sh(
        &guest,
        "id -u; id -g; grep -E 'NoNewPrivs|Seccomp:|CapEff|CapBnd' /proc/self/status; \
         ls /proc/self/fd | wc -l; env | sort; pwd",
        10_000,
    );
    let text = result["stdout"].as_str().unwrap();
    assert!(text.starts_with("1000\n1000\n"), "{text}");
    assert!(text.contains("NoNewPrivs:\t1"), "{text}");
    assert!(text.contains("Seccomp:\t2"), "{text}");
    assert!(text.contains("CapEff:\t0000000000000000"), "{text}");
    assert!(text.contains("CapBnd:\t0000000000000000"), "{text}");
    assert!(!text.contains("BSM_"), "{text}");
}

#[test]
fn what_a_tool_must_not_do_is_refused() {
    let guest = guest();
    for script in [
        "mount -t tmpfs none /tmp",
        "umount /proc",
        "reboot -f",
        "poweroff -f",
        "mknod /tmp/mem c 1 1",
        "unshare -m true",
        "chroot / true",
        "hostname other",
        "date -s 2000-01-01 2>/tmp/said; ! grep -q 'not permitted' /tmp/said",
        "echo b > /proc/sysrq-trigger",
        "echo 1 > /sys/fs/cgroup/cgroup.procs",
        "touch /sbin/init",
        "cat /dev/mem",
        "cat /dev/kmsg",
        "cat /dev/vda",
        "insmod /tmp/x.ko",
    ] {
        let result = sh(&guest, script, 10_000);
        assert_ne!(result["exit_code"], 0, "{script}: {result}");
    }
    guest.assert_works();
}

#[test]
fn nothing_of_one_tool_is_seen_by_the_next() {
    let guest = guest();
    let first = sh(&guest, "echo secret > /tmp/marker && ls /tmp", 10_000);
    assert_eq!(first["stdout"], "marker\n");
    assert_eq!(sh(&guest, "ls /tmp", 10_000)["stdout"], "");
}

#[test]
fn a_deadline_of_zero_starts_nothing() {
    let guest = guest();
    for deadline in [0, -1] {
        let result = sh(&guest, "echo ran", deadline);
        assert_eq!(result["exit_code"], 137, "{result}");
        assert_eq!(result["reason"], "deadline_exceeded");
        assert_eq!(result["stdout"], "");
    }
}

#[test]
fn many_tools_run_side_by_side() {
    let guest = guest();
    let mut connection = guest.connect();
    for index in 0..8 {
        let script = format!("sleep 0.$((9 - {index})); echo {index}");
        connection.send(&dispatch(&format!("c{index}"), "sh", &json!({"script": script}), 30_000));
    }
    let mut seen = std::collections::BTreeMap::new();
    while seen.len() < 8 {
        let integration_tests::Received::Frame(frame) = connection.receive() else {
            panic!("closed")
        };
        if frame["type"] == "ToolResult" {
            let id = frame["command_id"].as_str().unwrap().to_owned();
            seen.insert(id, frame["stdout"].as_str().unwrap().to_owned());
        }
    }
    for (id, stdout) in seen {
        assert_eq!(format!("c{}", stdout.trim()), id);
    }
}
