//! Nothing of one command is there for the next.

use serde_json::{Value, json};

use super::super::attack_log::AttackLog;
use super::super::leak::Leak;
use super::super::{Arena, AttackerClass, Expectation, Guest, Probe, ProbeError, Verdict, search};
use sandbox::{KvmSandbox, Sandbox};

/// A mark in every command, looked for by the next.
pub const PROBE: Probe = Probe {
    name: "marker-persistence",
    class: AttackerClass::A3,
    expectation: Expectation::ShouldFail,
    description: "Every command leaves a mark in files and processes; after a reset the next \
                  command looks for it everywhere, and now and then the host searches all memory \
                  and the whole disk",
    repeats: true,
    run,
};

/// Where every tool has files of its own.
const SCRATCH: &str = "/tmp/";
/// Searching everything takes longer than a command.
const SEARCH_EVERY: u32 = 100;

fn run(arena: &Arena) -> Result<Verdict, ProbeError> {
    let sandbox = arena.sandbox(Guest::Shipped)?;
    let mut breaches: Vec<String> = control(arena, &sandbox)?.into_iter().collect();
    let mut searches = 0;
    let mut leak = Leak::watch(arena.plan().sandbox.memory_mib);
    for turn in 0..arena.plan().iterations {
        arena.turns().set(turn, arena.plan().iterations);
        leak.at(turn, arena.plan().iterations);
        let marker = search::marker();
        arena.attack(&sandbox, "attack_mark", json!({"marker": marker}))?;
        if !arena.plan().leaves_out("reset") {
            sandbox.reset().map_err(ProbeError::at("resetting"))?;
        }
        if turn % SEARCH_EVERY == 0 {
            searches += 1;
            breaches.extend(anywhere(arena, &sandbox, &marker)?);
        }
        let log = arena.attack(&sandbox, "attack_find", json!({"marker": marker}))?;
        let left = places(&log);
        if !left.is_empty() {
            breaches.push(format!("command {turn} finds the mark of the one before in {left:?}"));
        }
        if breaches.len() > 10 {
            break;
        }
        if !arena.plan().leaves_out("reset") {
            sandbox.reset().map_err(ProbeError::at("resetting"))?;
        }
    }
    breaches.extend(leak.found());
    let commands = arena.plan().iterations;
    let held = format!("{commands} marks left, none found; {searches} searches of everything");
    let evidence = json!({"commands": commands, "searches_of_everything": searches,
        "footprint": leak.evidence()});
    Ok(Verdict::of(&breaches, held, evidence))
}

/// Without a reset, guest and host find a mark. In another tool's scratch space, which no tool but
/// that one has, it would be a breach.
pub fn control(arena: &Arena, sandbox: &KvmSandbox) -> Result<Option<String>, ProbeError> {
    let marker = search::marker();
    arena.attack(sandbox, "attack_mark", json!({"marker": marker}))?;
    if anywhere(arena, sandbox, &marker)?.is_none() {
        return Err(ProbeError::Control("the host does not find a mark that is there".into()));
    }
    let log = arena.attack(sandbox, "attack_find", json!({"marker": marker}))?;
    let found = places(&log);
    if found.is_empty() {
        return Err(ProbeError::Control("the guest does not find a mark that is there".into()));
    }
    if let Some(wrong) = arena.recover(sandbox) {
        return Err(ProbeError::Control(wrong));
    }
    let shared = found.iter().any(|place| place.starts_with(SCRATCH));
    Ok(shared.then(|| "a tool's scratch space is seen by another tool".to_owned()))
}

fn anywhere(
    arena: &Arena,
    sandbox: &KvmSandbox,
    marker: &str,
) -> Result<Option<String>, ProbeError> {
    let disk_bytes = sandbox.golden().and_then(|golden| golden.disk_bytes()).unwrap_or_default();
    let memory_mib = arena.plan().sandbox.memory_mib;
    let [memory, disk] = arena.held(sandbox, |machine| {
        let memory = search::memory(machine, memory_mib, &[marker])?;
        let disk = search::disk(machine, disk_bytes, &[marker])?;
        Ok([memory, disk].map(|found| found.contains(&true)))
    })?;
    Ok((memory || disk).then(|| format!("a mark is left: memory {memory}, disk {disk}")))
}

/// Where an attack found a mark.
pub fn places(log: &AttackLog) -> Vec<&str> {
    let found = log.facts.get("found").and_then(Value::as_array);
    found.into_iter().flatten().filter_map(Value::as_str).collect()
}
