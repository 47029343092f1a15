//! Real Linux guests: how they start, and how they end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so by failing"
)]

use std::time::{Duration, Instant};

use integration_tests::{RawGuest, default_config};
use vmm::{Machine, MachineError, MachineState, MpState, StopReason};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_guest_announces_itself_and_answers() {
    let guest = RawGuest::boot("");
    assert_eq!(guest.ready["type"], "GuestReady");
    assert_eq!(guest.ready["port"], 52000);
    guest.assert_works();
    guest.machine.shutdown();
    assert_eq!(guest.machine.stop_reason(), Some(StopReason::Shutdown));
}

#[test]
fn one_to_eight_processors_all_come_up() {
    for vcpus in [1, 2, 4, 8] {
        let mut config = default_config("");
        config.vcpus = vcpus;
        let guest = RawGuest::boot_with(config);
        let MachineState::Running(states) = guest.machine.state().unwrap() else {
            panic!("not running")
        };
        assert_eq!(states.len(), usize::from(vcpus));
        for state in states {
            assert!(matches!(state.mp_state, MpState::Runnable | MpState::Halted), "{state:?}");
        }
        let stat = guest.connect().run("cat", &serde_json::json!({"path": "/proc/stat"}), 10_000);
        let text = stat["stdout"].as_str().unwrap();
        let online = text.lines().filter(|l| l.starts_with("cpu") && !l.starts_with("cpu "));
        assert_eq!(online.count(), usize::from(vcpus), "{text}");
    }
}

#[test]
fn memory_below_and_around_the_hole_is_found() {
    for memory_mib in [64, 128, 4096] {
        let mut config = default_config("");
        config.memory_mib = memory_mib;
        let guest = RawGuest::boot_with(config);
        let info =
            guest.connect().run("cat", &serde_json::json!({"path": "/proc/meminfo"}), 10_000);
        let text = info["stdout"].as_str().unwrap();
        let total: u64 = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|rest| rest.trim().split(' ').next()?.parse().ok())
            .unwrap();
        let given = u64::from(memory_mib) * 1024;
        assert!(total > given * 3 / 4 && total <= given, "{memory_mib} MiB: {total} KiB");
    }
}

#[test]
fn a_paused_guest_does_not_answer_and_a_resumed_one_does() {
    let guest = RawGuest::boot("");
    let mut connection = guest.connect();
    guest.machine.pause().unwrap();
    connection.send(&integration_tests::dispatch(
        "paused",
        "echo",
        &serde_json::json!({"message": "later"}),
        30_000,
    ));
    assert_eq!(connection.receive_within(Duration::from_millis(300)), None);
    guest.machine.resume().unwrap();
    assert_eq!(connection.result_of("paused")["stdout"], "later\n");
}

#[test]
fn a_kernel_panic_is_reported_at_once_with_its_own_words() {
    let mut config = default_config("");
    config.disk = None;
    let machine = Machine::create(config).unwrap();
    let listener = machine.vsock().listen(52000).unwrap();
    let started = Instant::now();
    machine.boot().unwrap();
    assert!(listener.accept(Some(LIMIT)).is_err());
    assert!(started.elapsed() < LIMIT, "the panic was not noticed");
    let Some(StopReason::GuestPanic(line)) = machine.stop_reason() else {
        panic!("{:?}", machine.stop_reason())
    };
    assert!(line.contains("Unable to mount root fs"), "{line}");
    assert!(!machine.console().last_lines(5).is_empty());
    assert!(matches!(machine.pause(), Err(MachineError::WrongState { .. })));
}

#[test]
fn a_missing_init_is_a_panic() {
    let mut config = default_config("");
    config.cmdline = config.cmdline.replace("init=/sbin/init", "init=/nonexistent");
    let machine = Machine::create(config).unwrap();
    machine.boot().unwrap();
    let reason = machine.wait_stopped(LIMIT);
    assert!(matches!(reason, Some(StopReason::GuestPanic(_))), "{reason:?}");
}

#[test]
fn another_port_on_the_command_line_is_used() {
    let config = default_config("BSM_VSOCK_PORT=4242");
    let machine = Machine::create(config).unwrap();
    let listener = machine.vsock().listen(4242).unwrap();
    machine.boot().unwrap();
    listener.accept(Some(LIMIT)).unwrap();
    assert!(machine.vsock().connect(4242, LIMIT).is_ok());
    assert!(machine.vsock().connect(52000, LIMIT).is_err());
}
