//! Machines that run side by side find nothing of each other.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::leak::Leak;
use crate::{AttackerClass, Expectation, FnProbe, ProbeError, Testbed, Verdict, search};
use sandbox::{KvmSandbox, Sandbox};

/// Several machines of one golden state run side by side, each with a mark of its own.
pub const PROBE: FnProbe = FnProbe {
    name: "conc-n",
    class: AttackerClass::Latency,
    expectation: Expectation::ShouldPass,
    description: "Machines that share golden memory run side by side, leave marks, and are reset; \
                  no mark is ever in the memory of another machine, nor in its own after a reset",
    repeats: false,
    run,
};

const ROUNDS: usize = 2;
/// The most machines that run a command at once; all machines run all the time. On a small host,
/// commands of many more machines at once would not meet their deadlines.
const AT_ONCE: usize = 8;

fn run(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let count = testbed.plan().machines as usize;
    let fork = || testbed.fork();
    // What is made once for all machines is no leak.
    fork()?.boot().map_err(ProbeError::at("booting beside others"))?;
    let mut leak = Leak::watch(0);
    let machines = (0..count).map(|_| fork()).collect::<Result<Vec<_>, _>>()?;
    let markers: Vec<String> = machines.iter().map(|_| search::marker()).collect();
    let barrier = Barrier::new(count);
    let begun = Instant::now();
    let results: Vec<Result<Ran, ProbeError>> = thread::scope(|scope| {
        let threads: Vec<_> = machines
            .iter()
            .enumerate()
            .map(|(own, machine)| {
                let (barrier, markers) = (&barrier, &markers);
                scope.spawn(move || one(testbed, machine, own, markers, barrier))
            })
            .collect();
        let gone = || Err(ProbeError::Control("a thread panicked".into()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| gone())).collect()
    });
    let wall = begun.elapsed();
    let ran = results.into_iter().collect::<Result<Vec<_>, _>>()?;
    drop(machines);
    let mut breaches: Vec<String> = ran.iter().flat_map(|ran| ran.breaches.clone()).collect();
    let samples: Vec<Duration> = ran.iter().flat_map(|ran| ran.commands.clone()).collect();
    breaches.extend(leak.found_once());
    testbed.measured(&format!("roundtrip-{count}-machines"), &samples);
    let held = format!("{count} machines, {ROUNDS} rounds, no mark anywhere it should not be");
    let evidence = json!({"machines": count, "rounds": ROUNDS, "wall_ms": wall.as_millis() as u64,
        "footprint": leak.evidence()});
    Ok(Verdict::of(&breaches, held, evidence))
}

/// What one machine saw.
struct Ran {
    breaches: Vec<String>,
    commands: Vec<Duration>,
}

/// Does the rounds of one machine. A thread whose machine failed still waits at every barrier, so that
/// no other thread waits there for ever.
fn one(
    testbed: &Testbed,
    sandbox: &KvmSandbox,
    own: usize,
    markers: &[String],
    barrier: &Barrier,
) -> Result<Ran, ProbeError> {
    let mut ran = Ran { breaches: Vec::new(), commands: Vec::new() };
    let mut failed =
        sandbox.boot().map(drop).map_err(ProbeError::at("booting beside others")).err();
    let marker = markers.get(own).map_or("", String::as_str);
    for _ in 0..ROUNDS {
        // No thread begins the next step before all have done this one.
        let mut step = |work: &mut dyn FnMut() -> Result<(), ProbeError>| {
            for wave in 0..markers.len().div_ceil(AT_ONCE) {
                if failed.is_none() && own / AT_ONCE == wave {
                    failed = work().err();
                }
                barrier.wait();
            }
        };
        step(&mut || testbed.attack(sandbox, "attack_mark", json!({ "marker": marker })).map(drop));
        // Now every machine has its mark.
        step(&mut || {
            let found = look(testbed, sandbox, markers)?;
            for (other, found) in found.into_iter().enumerate() {
                if other == own && !found {
                    return Err(ProbeError::Control("a machine's own mark is not found".into()));
                }
                if other != own && found {
                    ran.breaches.push(format!("the mark of machine {other} is in {own}"));
                }
            }
            Ok(())
        });
        step(&mut || {
            ran.breaches.extend(testbed.recover(sandbox));
            if look(testbed, sandbox, markers)?.contains(&true) {
                ran.breaches.push(format!("a mark is in machine {own} after its reset"));
            }
            let begun = Instant::now();
            ran.breaches.extend(testbed.next_command(sandbox));
            ran.commands.push(begun.elapsed());
            sandbox.reset().map(drop).map_err(ProbeError::at("resetting beside others"))
        });
    }
    sandbox.shutdown();
    failed.map_or(Ok(ran), Err)
}

fn look(
    testbed: &Testbed,
    sandbox: &KvmSandbox,
    markers: &[String],
) -> Result<Vec<bool>, ProbeError> {
    let markers: Vec<&str> = markers.iter().map(String::as_str).collect();
    let memory_mib = testbed.plan().sandbox.memory_mib;
    testbed.held(sandbox, |machine| Ok(search::memory(machine, memory_mib, &markers)?))
}
