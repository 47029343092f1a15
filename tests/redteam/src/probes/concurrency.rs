//! Machines beside each other know nothing of each other.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::leak::Leak;
use super::super::{Arena, AttackerClass, Expectation, Guest, Probe, ProbeError, Verdict, search};
use sandbox::{KvmSandbox, Sandbox};

/// Several machines of one golden state, each with a mark of its own.
pub const PROBE: Probe = Probe {
    name: "conc-n",
    class: AttackerClass::Latency,
    expectation: Expectation::ShouldPass,
    description: "Machines that share golden memory run side by side, leave marks, and are reset; \
                  no mark is ever in the memory of another machine, nor in its own after a reset",
    repeats: false,
    run,
};

const ROUNDS: usize = 2;
/// Machines that are busy at once; all of them run all the time. On a small host a command of one
/// among many more would not meet its deadline.
const AT_ONCE: usize = 8;

fn run(arena: &Arena) -> Result<Verdict, ProbeError> {
    let first = arena.sandbox(Guest::Shipped)?;
    let count = arena.plan().machines as usize;
    let fork = || {
        KvmSandbox::fork_of(&first)
            .ok_or_else(|| ProbeError::Control("the sandbox has no golden state to fork".into()))
    };
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
                scope.spawn(move || one(arena, machine, own, markers, barrier))
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
    arena.measured(&format!("roundtrip-{count}-machines"), &samples);
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

/// All wait for one another even when something failed: nobody is left behind at a barrier.
fn one(
    arena: &Arena,
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
        // Nobody begins the next step before all have done this one.
        let mut step = |work: &mut dyn FnMut() -> Result<(), ProbeError>| {
            for wave in 0..markers.len().div_ceil(AT_ONCE) {
                if failed.is_none() && own / AT_ONCE == wave {
                    failed = work().err();
                }
                barrier.wait();
            }
        };
        step(&mut || arena.attack(sandbox, "attack_mark", json!({ "marker": marker })).map(drop));
        // Now every machine has its mark.
        step(&mut || {
            let found = look(arena, sandbox, markers)?;
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
            ran.breaches.extend(arena.recover(sandbox));
            if look(arena, sandbox, markers)?.contains(&true) {
                ran.breaches.push(format!("a mark is in machine {own} after its reset"));
            }
            let begun = Instant::now();
            ran.breaches.extend(arena.next_command(sandbox));
            ran.commands.push(begun.elapsed());
            sandbox.reset().map(drop).map_err(ProbeError::at("resetting beside others"))
        });
    }
    sandbox.shutdown();
    failed.map_or(Ok(ran), Err)
}

fn look(arena: &Arena, sandbox: &KvmSandbox, markers: &[String]) -> Result<Vec<bool>, ProbeError> {
    let markers: Vec<&str> = markers.iter().map(String::as_str).collect();
    let memory_mib = arena.plan().sandbox.memory_mib;
    arena.held(sandbox, |machine| Ok(search::memory(machine, memory_mib, &markers)?))
}
