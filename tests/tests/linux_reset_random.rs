//! Resets of Linux guests after random work: whatever happened before, at
//! whatever moment it ends, every bit comes back.
//!
//! `BSM_SEED` chooses the work; a failing test prints the seed it had.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so by failing"
)]

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use integration_tests::{RawConnection, RawGuest, default_config, dispatch};
use serde_json::json;
use vmm::{MachineConfig, Strategy};

/// For a guest to become idle.
const LIMIT: Duration = Duration::from_secs(10);

const STRATEGIES: [Strategy; 4] = [
    Strategy::CopyBack,
    Strategy::Hybrid { copy_pages: 300 },
    Strategy::DropPrivate,
    Strategy::FullCopy,
];
const DEADLINE_MS: i64 = 60_000;
/// What a tool finds in the places where it may write.
const LOOK: &str = "ls -A /work /tmp";

/// Marsaglia's xorshift: good enough to choose with, and the same everywhere.
struct Random(u64);

impl Random {
    fn from_seed() -> (Self, u64) {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
        let seed = std::env::var("BSM_SEED").map_or_else(|_| now(), |seed| seed.parse().unwrap());
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        (random, seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// A few lines of shell that change something of every kind.
fn script(random: &mut Random) -> String {
    let mut script = String::new();
    for index in 0..2 + random.below(4) {
        let (many, few) = (random.below(120) + 1, random.below(12) + 1);
        let line = match random.below(8) {
            // Memory, kept and given back.
            0 => format!("dd if=/dev/urandom of=/tmp/m{index} bs=4096 count={many}"),
            1 => format!("dd if=/dev/zero of=/tmp/z bs=65536 count={many}; rm /tmp/z"),
            // The disk, written, deleted and neither.
            2 => format!("dd if=/dev/urandom of=/work/f{index} bs=1000 count={many}; sync"),
            3 => format!("mkdir -p /work/d{index}; echo {many} > /work/d{index}/x; rm -r /work/d*"),
            4 => format!("dd if=/dev/zero of=/work/g bs=4096 count={many}; sync; rm /work/g; sync"),
            // A timer that is not over in time. No process waits for it.
            5 => format!("(sleep {few} &)"),
            // Processes.
            6 => format!("i=0; while [ $i -lt {few} ]; do i=$((i+1)); ls / & done; wait"),
            // Output.
            _ => format!("dd if=/dev/zero bs=1024 count={}", many * 8),
        };
        writeln!(script, "{line}").unwrap();
    }
    script + "true"
}

fn send(connection: &mut RawConnection, id: &str, script: &str) {
    connection.send(&dispatch(id, "sh", &json!({"script": script}), DEADLINE_MS));
}

/// Opens connections and leaves each in another state.
fn connections(guest: &RawGuest, random: &mut Random, cycle: usize) -> Vec<RawConnection> {
    let mut kept = Vec::new();
    for index in 0..random.below(6) {
        let mut connection = guest.connect();
        match random.below(7) {
            // Half closed, either way and both.
            0 => connection.stream.shutdown(Shutdown::Write).unwrap(),
            1 => connection.stream.shutdown(Shutdown::Read).unwrap(),
            2 => connection.stream.shutdown(Shutdown::Both).unwrap(),
            // Gone.
            3 => continue,
            // Torn down by the guest.
            4 => connection.send_bytes(b"garbage"),
            // Bytes of the guest that the host does not read, more than fit.
            5 => {
                let output = format!("dd if=/dev/zero bs=1024 count={}", random.below(1000) + 1);
                send(&mut connection, &format!("unread-{cycle}-{index}"), &output);
            }
            // Half a message to the guest.
            _ => connection.stream.write_all(&1000_u32.to_be_bytes()).unwrap(),
        }
        kept.push(connection);
    }
    kept
}

/// What is not over when the reset comes. Returns connections that are to live until then.
fn under_way(
    guest: &RawGuest,
    control: &mut RawConnection,
    random: &mut Random,
    cycle: usize,
) -> Option<RawConnection> {
    let transfer = "dd if=/dev/zero bs=65536 count=60";
    let mut some = vec![0; random.below(100_000) as usize + 1];
    let mut other = None;
    match random.below(5) {
        0 => {}
        // A tool somewhere in its work.
        1 => {
            let connection = other.insert(guest.connect());
            send(connection, &format!("busy-{cycle}"), &script(random));
        }
        // A transfer, on a connection that goes away, ...
        2 => {
            let connection = other.insert(guest.connect());
            send(connection, &format!("transfer-{cycle}"), transfer);
            connection.stream.read_exact(&mut some).unwrap();
        }
        // ... and on the one that stays.
        3 => {
            send(control, &format!("transfer-{cycle}"), transfer);
            control.stream.read_exact(&mut some).unwrap();
        }
        // Half a message.
        _ => {
            control.stream.write_all(&5000_u32.to_be_bytes()).unwrap();
            control.stream.write_all(&some[..some.len().min(4000)]).unwrap();
        }
    }
    std::thread::sleep(Duration::from_micros(random.below(60_000)));
    other
}

fn look(control: &mut RawConnection) -> String {
    let result = control.run("sh", &json!({"script": LOOK}), DEADLINE_MS);
    result["stdout"].as_str().unwrap().to_owned()
}

/// Work, a reset and a comparison, `cycles` times in a row.
fn comes_back(config: MachineConfig, cycles: usize, strategies: &[Strategy]) {
    let (mut random, seed) = Random::from_seed();
    let seed = format!("BSM_SEED={seed}");
    println!("{seed}");
    let guest = RawGuest::boot_with(config);
    let mut control = guest.connect();
    let golden_look = look(&mut control);
    guest.machine.capture_when_idle(LIMIT).unwrap();
    for cycle in 0..cycles {
        let strategy = strategies[cycle % strategies.len()];
        let begun = Instant::now();
        let mut kept = Vec::new();
        for _ in 0..=random.below(2) {
            let script = script(&mut random);
            let result = control.run("sh", &json!({"script": script}), DEADLINE_MS);
            assert_eq!(result["exit_code"], 0, "{seed}, cycle {cycle}: {script}\n{result}");
            kept.extend(connections(&guest, &mut random, cycle));
        }
        if random.below(3) == 0 {
            kept.clear();
        }
        let other = under_way(&guest, &mut control, &mut random, cycle);
        let worked = begun.elapsed();

        if random.below(3) == 0 {
            // Without holding it first: it runs on from its golden state.
            guest.machine.reset(strategy).unwrap();
            assert_eq!(look(&mut control), golden_look, "{seed}, cycle {cycle}");
        }
        let (guest_port, host_port) = (control.stream.guest_port(), control.stream.host_port());
        let taken_up_again = random.below(3) == 0;
        if taken_up_again {
            drop(control.stream.try_clone().map(|twin| twin.shutdown(Shutdown::Both)));
        }
        guest.machine.pause().unwrap();
        let report = guest.machine.reset(strategy).unwrap();
        let comparing = Instant::now();
        let left = guest.machine.differences().unwrap();
        println!(
            "cycle {cycle}, {}: worked {worked:.1?}, {} dirty pages, {} blocks, reset {:.1?}, \
             compared {:.1?}",
            strategy.name(),
            report.dirty_pages,
            report.disk_blocks,
            report.parts.total(),
            comparing.elapsed(),
        );
        assert_eq!(left.to_string(), "nothing", "{seed}, cycle {cycle}, {}", strategy.name());
        if taken_up_again {
            control.stream = guest.machine.vsock().reattach(guest_port, host_port).unwrap();
        }
        if random.below(2) == 0 {
            // Connections the golden state does not know may end while nothing runs, ...
            kept.clear();
        }
        guest.machine.resume().unwrap();
        assert_eq!(look(&mut control), golden_look, "{seed}, cycle {cycle}");
        // ... or when the guest has their ports for others.
        drop((kept, other));
    }
    let begun = Instant::now();
    let slept = control.run("sh", &json!({"script": "sleep 1"}), DEADLINE_MS);
    assert_eq!(slept["exit_code"], 0);
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    guest.assert_works();
}

fn config(vcpus: u8, memory_mib: u32) -> MachineConfig {
    let mut config = default_config("BSM_ENABLE_TOOLS=sh");
    (config.vcpus, config.memory_mib) = (vcpus, memory_mib);
    config
}

#[test]
fn one_processor_comes_back_from_anything() {
    comes_back(config(1, 128), 6, &STRATEGIES);
}

#[test]
fn two_processors_come_back_from_anything() {
    comes_back(config(2, 128), 6, &STRATEGIES);
}

/// Two memory slots with a hole between them. A full copy would need twice the guest's memory.
#[test]
fn memory_around_the_hole_comes_back_from_anything() {
    comes_back(config(1, 3200), 5, &STRATEGIES[..3]);
}
