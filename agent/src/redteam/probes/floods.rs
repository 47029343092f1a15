//! A machine that keeps the host busy costs a bounded amount, and its neighbours little.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::attack_log::AttackLog;
use super::super::host::HostState;
use super::super::{Arena, AttackerClass, Expectation, Guest, Latency, Probe, ProbeError, Verdict};
use crate::sandbox::{KvmSandbox, Sandbox};

/// Everything a guest can do to the host without end.
pub const PROBE: Probe = Probe {
    name: "floods",
    class: AttackerClass::RuntimeLimit,
    expectation: Expectation::ShouldFail,
    description: "As root and without confinement: processors, device interrupts, the disk, the \
                  console and the socket device are kept busy; the host pays for the machine's \
                  processors and no more, and commands in another machine are timed meanwhile",
    repeats: true,
    run,
};

const FLOODS: [&str; 5] = ["processors", "interrupts", "disk", "console", "sockets"];
/// How long each one lasts, in milliseconds: some for every iteration.
const LEAST_MS: u64 = 500;
const MOST_MS: u64 = 5000;
const MS_PER_ITERATION: u64 = 5;
/// What a flood may cost the agent beyond the memory of both guests, in MiB.
const GROWTH_MIB: u64 = 64;
/// Fewer samples say nothing of the slowest hundredth.
const ENOUGH_SAMPLES: usize = 100;
/// What a neighbour's slowest hundredth may become, where times mean something.
const MOST_CHANGE: f64 = 2.0;

fn run(arena: &Arena) -> Result<Verdict, ProbeError> {
    let flooded = arena.sandbox(Guest::Bare)?;
    let first = arena.sandbox(Guest::Shipped)?;
    let neighbour = KvmSandbox::fork_of(&first)
        .ok_or_else(|| ProbeError::Control("the sandbox has no golden state to fork".into()))?;
    neighbour.boot().map_err(ProbeError::at("booting a neighbour"))?;
    let length = u64::from(arena.plan().iterations) * MS_PER_ITERATION;
    let length = Duration::from_millis(length.clamp(LEAST_MS, MOST_MS));
    let alone = commands_until(arena, &neighbour, {
        let until = Instant::now() + length;
        move || Instant::now() >= until
    })?;
    arena.measured("roundtrip-alone", &alone);
    let alone = Latency::of(&alone);
    let mut breaches = Vec::new();
    let mut seen = Vec::new();
    let mut worst = 0.0_f64;
    for what in FLOODS {
        let flood = flood(arena, &flooded, &neighbour, what, length)?;
        arena.measured(&format!("roundtrip-beside-{what}"), &flood.beside);
        let beside = Latency::of(&flood.beside);
        let change = beside.p99 / alone.p99.max(f64::MIN_POSITIVE);
        worst = worst.max(change);
        let counts = beside.count.min(alone.count) >= ENOUGH_SAMPLES && arena.plan().gates;
        let mut wrong = flood.breaches(arena);
        if counts && change > MOST_CHANGE {
            wrong.push(format!("a neighbour's p99 is {change:.1} times what it was"));
        }
        wrong.extend(arena.recover(&flooded).or_else(|| arena.next_command(&flooded)));
        seen.push(json!({
            "flood": what, "times": flood.times(), "wall_ms": flood.wall.as_millis() as u64,
            "processor_ms": flood.processor.as_millis() as u64,
            "neighbour_p99_ms": beside.p99, "neighbour_p99_change": change,
        }));
        breaches.extend(wrong.into_iter().map(|wrong| format!("{what}: {wrong}")));
    }
    neighbour.shutdown();
    let held = format!("{} floods; a neighbour's p99 changed by {worst:.2} at most", FLOODS.len());
    let evidence = json!({"floods": seen, "neighbour_alone_p99_ms": alone.p99});
    Ok(Verdict::of(&breaches, held, evidence))
}

/// What one flood did and cost.
struct Flood {
    log: AttackLog,
    beside: Vec<Duration>,
    wall: Duration,
    processor: Duration,
    before: HostState,
    after: HostState,
}

fn flood(
    arena: &Arena,
    flooded: &KvmSandbox,
    neighbour: &KvmSandbox,
    what: &str,
    length: Duration,
) -> Result<Flood, ProbeError> {
    let params = json!({"what": what, "milliseconds": length.as_millis() as u64});
    let (before, begun) = (HostState::now(), Instant::now());
    let busy = processor_time();
    let (log, beside) = thread::scope(|scope| {
        let attack = scope.spawn(|| arena.attack(flooded, "attack_flood", params));
        let beside = commands_until(arena, neighbour, || attack.is_finished());
        let gone = || Err(ProbeError::Control("a thread panicked".into()));
        (attack.join().unwrap_or_else(|_| gone()), beside)
    });
    let (wall, processor) = (begun.elapsed(), processor_time().saturating_sub(busy));
    let (log, beside, after) = (log?, beside?, HostState::now());
    Ok(Flood { log, beside, wall, processor, before, after })
}

impl Flood {
    fn times(&self) -> u64 {
        self.log.facts.get("times").and_then(Value::as_u64).unwrap_or_default()
    }

    fn breaches(&self, arena: &Arena) -> Vec<String> {
        let sandbox = &arena.plan().sandbox;
        let mut breaches = self.log.breaches();
        let memory = 2 * u64::from(sandbox.memory_mib) + GROWTH_MIB;
        breaches.extend(self.after.breaches(&self.before, memory));
        // Both machines' processors, and all else that the agent does.
        let most = self.wall * (2 * u32::from(sandbox.vcpus) + 1);
        if self.processor > most {
            let spent = self.processor;
            breaches
                .push(format!("the agent spent {spent:?} of processor time in {:?}", self.wall));
        }
        breaches
    }
}

/// Runs commands until it is over, and three at least.
fn commands_until(
    arena: &Arena,
    sandbox: &KvmSandbox,
    over: impl Fn() -> bool,
) -> Result<Vec<Duration>, ProbeError> {
    let mut samples = Vec::new();
    while samples.len() < 3 || !over() {
        let begun = Instant::now();
        if let Some(wrong) = arena.next_command(sandbox) {
            return Err(ProbeError::Control(format!("in a neighbour: {wrong}")));
        }
        samples.push(begun.elapsed());
    }
    Ok(samples)
}

/// What this process has used: fields 14 and 15 of proc_pid_stat(5), in hundredths of a second.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let used = fields.split_whitespace().skip(11).take(2);
    Duration::from_millis(used.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redteam::{Plan, Selection};
    use crate::sandbox::{ImageSource, SandboxConfig};

    #[test]
    fn a_flood_that_costs_more_than_the_processors_it_has_fails() {
        let arena = Arena::new(Plan {
            sandbox: SandboxConfig::new(ImageSource::directory("/nonexistent")),
            selection: Selection::All,
            iterations: 1,
            machines: 2,
            budget: Duration::from_secs(30),
            gates: true,
            without: Vec::new(),
        });
        let log = json!({"attack": "flood", "controls": [], "attempts": [], "facts": {"times": 5}});
        let state = HostState::now();
        let mut flood = Flood {
            log: serde_json::from_value(log).unwrap(),
            beside: Vec::new(),
            wall: Duration::from_secs(1),
            processor: Duration::from_secs(3),
            before: state,
            after: state,
        };
        assert_eq!(flood.times(), 5);
        assert_eq!(flood.breaches(&arena), Vec::<String>::new());
        flood.processor += Duration::from_millis(10);
        flood.after.agent.rss_kib += 1 << 20;
        assert_eq!(flood.breaches(&arena).len(), 2);
    }

    #[test]
    fn processor_time_grows_with_work() {
        let before = processor_time();
        while processor_time() == before {
            std::hint::spin_loop();
        }
    }
}
