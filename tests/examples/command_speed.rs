//! What a command costs with everything real: from the last byte of its envelope until its result
//! is on the socket, `echo` in a Linux guest, reset and verification included. Then what the
//! agent costs while nobody asks for anything.
//!
//! `command_speed [COMMANDS] [IDLE_SECONDS]`, with `BSM_AGENT_BIN` and `BSM_IMAGE_DIR`, where KVM
//! runs Linux: `cargo xtask nested` is such a place. The agent keeps the times of its latest 1024
//! commands.
#![allow(clippy::unwrap_used, reason = "a measurement that fails has nothing to say")]
#![allow(clippy::cast_precision_loss, reason = "the numbers are small")]

use std::fs;
use std::time::Duration;

use dev_relay::{Config, DevRelay, DispatchOptions};
use integration_tests::{LIMIT, ServedAgent};
use serde_json::{Value, json};

const PHASES: [&str; 8] = ["verify", "store", "ack", "wait", "execute", "reset", "send", "total"];
/// Clock ticks a second in `/proc`, proc(5): always 100 on x86.
const TICKS: f64 = 100.0;

#[tokio::main]
async fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>().unwrap());
    let commands = numbers.next().unwrap_or(1000);
    let idle = numbers.next().unwrap_or(300);
    // Everything may be emulated, the relay included.
    let config = Config { ack_timeout: Duration::from_secs(30), ..Config::default() };
    let relay = DevRelay::start(config).await.unwrap();
    let mut agent = ServedAgent::with_machines(&relay);
    agent.start();
    agent.session(&relay).await;
    for _ in 0..commands {
        let options = DispatchOptions::default();
        let params = json!({"message": "x"});
        let mut command = relay.dispatch(agent.id(), "echo", &params, &options).unwrap();
        assert!(command.outcome(LIMIT).await.unwrap().is_completed(), "{}", agent.log());
    }
    print_phases(&agent);

    let (before, pool) = (processor_seconds(&agent), memory_kib(&agent));
    println!("memory, warm and idle: {pool}");
    tokio::time::sleep(Duration::from_secs(idle)).await;
    let used = processor_seconds(&agent) - before;
    println!(
        "{idle} s idle: {used:.2} s of processor time ({:.2} %), memory {}",
        used * 100.0 / idle.max(1) as f64,
        memory_kib(&agent)
    );
    assert!(relay.violations().is_empty(), "{:?}", relay.violations());
}

fn print_phases(agent: &ServedAgent) {
    let status = agent.command(&["status", "--json"]).stdout;
    let status: Value = serde_json::from_slice(&status).unwrap();
    let recent = &status["recent"];
    println!("{} commands, milliseconds: p50, p90, p99, max", recent["commands"]);
    for phase in PHASES {
        let of = |name: &str| recent[phase][name].as_f64().unwrap_or(f64::NAN) / 1000.0;
        let (p50, p90, p99, max) = (of("p50_us"), of("p90_us"), of("p99_us"), of("max_us"));
        println!("  {phase:8} {p50:9.2} {p90:9.2} {p99:9.2} {max:9.2}");
    }
}

/// Processor time of the agent and the process that keeps its key.
fn processor_seconds(agent: &ServedAgent) -> f64 {
    let ticks: u64 = agent
        .processes()
        .iter()
        .map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            // Fields 14 and 15; the name in the second may hold anything.
            let after_name = stat.rsplit_once(')').unwrap().1;
            let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        })
        .sum();
    ticks as f64 / TICKS
}

/// What each process holds, in the kernel's own words.
fn memory_kib(agent: &ServedAgent) -> String {
    let of = |pid: i32| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let field = |name: &str| {
            let line = rollup.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
        };
        let fields = ["Rss:", "Pss:", "Private_Dirty:", "Shared_Dirty:"].map(field);
        format!("process {pid}: {}", fields.join(", "))
    };
    agent.processes().into_iter().map(of).collect::<Vec<_>>().join("; ")
}
