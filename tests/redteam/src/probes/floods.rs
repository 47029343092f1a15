//! A machine that keeps the host busy costs a bounded amount, and its neighbours little.

use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use crate::attack_log::AttackLog;
use crate::host::HostState;
use crate::{AttackerClass, Expectation, FnProbe, Guest, Latency, ProbeError, Testbed, Verdict};
use sandbox::Sandbox;

/// A guest keeps the host busy in every way that it can go on with for long.
pub const PROBE: FnProbe = FnProbe {
    name: "floods",
    class: AttackerClass::RuntimeLimit,
    expectation: Expectation::ShouldFail,
    description: "As root and without confinement: processors, device interrupts, the disk, the \
                  console and the socket device are kept busy; the host pays for the machine's \
                  processors and no more, and a neighbour's commands are timed with and without them, turn \
                  by turn",
    repeats: true,
    run,
};

const FLOODS: [&str; 5] = ["processors", "interrupts", "disk", "console", "sockets"];
/// What a flood may cost the agent beyond the memory of both guests, in MiB.
const GROWTH_MIB: u64 = 64;
/// The fewest commands of a neighbour, with each flood and without it, that say something of the
/// slowest hundredth.
const ENOUGH_SAMPLES: usize = 100;
const MAX_SAMPLES: u32 = 1000;
/// Commands in a row without a flood. As many with a flood follow, so that other load on this host
/// meets both.
const BLOCK: u32 = 25;
/// How long one flood of such a block lasts at least, and below at most.
const MIN_FLOOD: Duration = Duration::from_millis(300);
const MAX_FLOOD: Duration = Duration::from_secs(10);
/// The factor by which a neighbour's 99th percentile may grow, where times mean something.
const MAX_CHANGE: f64 = 2.0;

fn run(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let flooded = testbed.sandbox(Guest::Bare)?;
    let neighbour = testbed.fork()?;
    neighbour.boot().map_err(ProbeError::at("booting a neighbour"))?;
    let samples = testbed.plan().iterations.min(MAX_SAMPLES);
    let block = samples.min(BLOCK);
    let warm_up = commands(testbed, &neighbour, block)?;
    let length = warm_up.iter().sum::<Duration>() * 3 / 2;
    let length = length.clamp(MIN_FLOOD, MAX_FLOOD);
    let mut floods = FLOODS.map(Flood::new);
    let rounds = samples.div_ceil(block.max(1));
    for round in 0..rounds {
        testbed.progress().set(round, rounds);
        for flood in &mut floods {
            flood.quiet.push(commands(testbed, &neighbour, block)?);
            let turn = turn(testbed, &*flooded, &neighbour, flood.what, length)?;
            flood.add(turn, testbed);
            let recovered = testbed.recover(&*flooded).or_else(|| testbed.next_command(&*flooded));
            flood.breaches.extend(recovered);
        }
    }
    neighbour.shutdown();
    let mut breaches = Vec::new();
    for flood in &floods {
        testbed.measured(&format!("roundtrip-beside-{}", flood.what), &flood.beside);
        let wrong = flood.breaches.iter().cloned().chain(flood.too_slow(testbed.plan().gates));
        breaches.extend(wrong.map(|wrong| format!("{}: {wrong}", flood.what)));
    }
    let quiet: Vec<Vec<Duration>> = floods.iter().flat_map(|f| f.quiet.iter().cloned()).collect();
    testbed.measured("roundtrip-alone", &quiet.concat());
    let itself = Slowdown::among(&quiet);
    let most =
        |of: fn(&Slowdown) -> f64| floods.iter().map(|f| of(&f.change())).fold(0.0, f64::max);
    let held = format!(
        "{} floods; a neighbour's p50 became {:.2} times what it was beside the worst, its p99 \
         {:.2} times; without a flood they differ by {:.2} and {:.2} among themselves",
        floods.len(),
        most(|change| change.p50),
        most(|change| change.p99),
        itself.p50,
        itself.p99,
    );
    let seen: Vec<Value> = floods.iter().map(Flood::evidence).collect();
    let evidence = json!({"floods": seen, "p99_change_at_most": MAX_CHANGE,
        "change_without_flood": itself});
    Ok(Verdict::of(&breaches, held, evidence))
}

/// The factor by which the time of an answer grew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
struct Slowdown {
    p50: f64,
    p99: f64,
}

impl Slowdown {
    fn between(before: &[Duration], after: &[Duration]) -> Self {
        let (before, after) = (Latency::of(before), Latency::of(after));
        let change = |before: f64, after: f64| after / before.max(f64::MIN_POSITIVE);
        Self { p50: change(before.p50_ms, after.p50_ms), p99: change(before.p99_ms, after.p99_ms) }
    }

    /// Compares every other block with those between, the greater over the lesser: the change that no
    /// flood causes.
    fn among(blocks: &[Vec<Duration>]) -> Self {
        let every_other = |first: usize| -> Vec<Duration> {
            blocks.iter().skip(first).step_by(2).flatten().copied().collect()
        };
        let (one, other) = (every_other(0), every_other(1));
        if one.is_empty() || other.is_empty() {
            return Self { p50: 1.0, p99: 1.0 };
        }
        let (there, back) = (Self::between(&one, &other), Self::between(&other, &one));
        Self { p50: there.p50.max(back.p50), p99: there.p99.max(back.p99) }
    }
}

/// All turns of one kind of flood.
struct Flood {
    what: &'static str,
    /// Times of a neighbour's commands before each turn; `beside` are those during the turns.
    quiet: Vec<Vec<Duration>>,
    beside: Vec<Duration>,
    times: u64,
    wall: Duration,
    processor: Duration,
    breaches: Vec<String>,
}

impl Flood {
    fn new(what: &'static str) -> Self {
        let (quiet, beside, times, wall, processor, breaches) = Default::default();
        Self { what, quiet, beside, times, wall, processor, breaches }
    }

    fn add(&mut self, turn: Turn, testbed: &Testbed) {
        self.breaches.extend(turn.breaches(testbed));
        self.times += turn.times();
        self.wall += turn.wall;
        self.processor += turn.processor;
        self.beside.extend(turn.beside);
    }

    fn change(&self) -> Slowdown {
        Slowdown::between(&self.quiet.concat(), &self.beside)
    }

    fn too_slow(&self, gates: bool) -> Option<String> {
        let count = self.quiet.iter().map(Vec::len).sum::<usize>().min(self.beside.len());
        let change = self.change().p99;
        (gates && count >= ENOUGH_SAMPLES && change > MAX_CHANGE)
            .then(|| format!("a neighbour's p99 is {change:.1} times what it was"))
    }

    fn evidence(&self) -> Value {
        let told = |samples: &[Duration]| {
            let latency = Latency::of(samples);
            json!({"samples": latency.samples, "p50_ms": latency.p50_ms, "p99_ms": latency.p99_ms})
        };
        json!({
            "flood": self.what, "times": self.times, "wall_ms": self.wall.as_millis() as u64,
            "processor_ms": self.processor.as_millis() as u64,
            "neighbour_alone": told(&self.quiet.concat()), "neighbour_beside": told(&self.beside),
            "change": self.change(),
        })
    }
}

/// One turn of a flood.
struct Turn {
    log: AttackLog,
    beside: Vec<Duration>,
    wall: Duration,
    processor: Duration,
    before: HostState,
    after: HostState,
}

fn turn(
    testbed: &Testbed,
    flooded: &dyn Sandbox,
    neighbour: &dyn Sandbox,
    what: &str,
    length: Duration,
) -> Result<Turn, ProbeError> {
    let params = json!({"what": what, "milliseconds": length.as_millis() as u64});
    let (before, begun) = (HostState::now(), Instant::now());
    let busy = processor_time();
    let (log, beside) = thread::scope(|scope| {
        let attack = scope.spawn(|| testbed.attack(flooded, "attack_flood", params));
        let beside = commands_until(testbed, neighbour, || attack.is_finished());
        let gone = || Err(ProbeError::Control("a thread panicked".into()));
        (attack.join().unwrap_or_else(|_| gone()), beside)
    });
    let (wall, processor) = (begun.elapsed(), processor_time().saturating_sub(busy));
    let (log, beside, after) = (log?, beside?, HostState::now());
    Ok(Turn { log, beside, wall, processor, before, after })
}

impl Turn {
    fn times(&self) -> u64 {
        self.log.facts.get("times").and_then(Value::as_u64).unwrap_or_default()
    }

    fn breaches(&self, testbed: &Testbed) -> Vec<String> {
        let sandbox = &testbed.plan().sandbox;
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

/// Runs `count` commands, and gives the time of each.
fn commands(
    testbed: &Testbed,
    sandbox: &dyn Sandbox,
    count: u32,
) -> Result<Vec<Duration>, ProbeError> {
    (0..count).map(|_| command(testbed, sandbox)).collect()
}

/// Runs commands until `over` says that the flood has ended. The command that was under way then is
/// left out unless it is the only one.
fn commands_until(
    testbed: &Testbed,
    sandbox: &dyn Sandbox,
    over: impl Fn() -> bool,
) -> Result<Vec<Duration>, ProbeError> {
    let mut samples = Vec::new();
    while !over() {
        let sample = command(testbed, sandbox)?;
        if samples.is_empty() || !over() {
            samples.push(sample);
        }
    }
    Ok(samples)
}

fn command(testbed: &Testbed, sandbox: &dyn Sandbox) -> Result<Duration, ProbeError> {
    let begun = Instant::now();
    match testbed.next_command(sandbox) {
        None => Ok(begun.elapsed()),
        Some(wrong) => Err(ProbeError::Control(format!("in a neighbour: {wrong}"))),
    }
}

/// Processor time of this process: fields 14 and 15 of proc_pid_stat(5), in hundredths of a second.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let used = fields.split_whitespace().skip(11).take(2);
    Duration::from_millis(used.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Plan;

    #[test]
    fn a_flood_that_costs_more_than_the_processors_it_has_fails() {
        let testbed = Testbed::new(Plan::for_tests(&[]));
        let log = json!({"attack": "flood", "controls": [], "attempts": [], "facts": {"times": 5}});
        let state = HostState::now();
        let mut turn = Turn {
            log: serde_json::from_value(log).unwrap(),
            beside: Vec::new(),
            wall: Duration::from_secs(1),
            processor: Duration::from_secs(3),
            before: state,
            after: state,
        };
        assert_eq!(turn.times(), 5);
        assert_eq!(turn.breaches(&testbed), Vec::<String>::new());
        turn.processor += Duration::from_millis(10);
        turn.after.agent.rss_kib += 1 << 20;
        assert_eq!(turn.breaches(&testbed).len(), 2);
    }

    #[test]
    fn a_neighbour_that_waits_more_than_twice_as_long_fails() {
        let ms = |ms, count| vec![Duration::from_millis(ms); count];
        let mut flood = Flood::new("x");
        flood.quiet = vec![ms(10, 50), ms(10, 49)];
        flood.beside = ms(21, 100);
        assert_eq!(flood.too_slow(true), None, "too few");
        flood.quiet.push(ms(10, 1));
        assert!(flood.too_slow(true).unwrap().contains("2.1 times"));
        assert_eq!(flood.too_slow(false), None);
        flood.beside = ms(20, 100);
        assert_eq!(flood.too_slow(true), None);
    }

    #[test]
    fn what_differs_without_a_flood_is_told() {
        let ms = |ms| vec![Duration::from_millis(ms); 10];
        assert_eq!(Slowdown::among(&[ms(10), ms(30)]), Slowdown { p50: 3.0, p99: 3.0 });
        assert_eq!(Slowdown::among(&[ms(30), ms(10)]), Slowdown { p50: 3.0, p99: 3.0 });
        assert_eq!(Slowdown::among(&[ms(30)]), Slowdown { p50: 1.0, p99: 1.0 });
    }

    #[test]
    fn processor_time_grows_with_work() {
        let before = processor_time();
        while processor_time() == before {
            std::hint::spin_loop();
        }
    }
}
