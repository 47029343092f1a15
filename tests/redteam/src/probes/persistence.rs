//! No command finds anything of the command before it.

use serde_json::{Value, json};

use crate::attack_log::AttackLog;
use crate::leak::Leak;
use crate::{AttackerClass, Expectation, FnProbe, Guest, ProbeError, Testbed, Verdict, search};
use sandbox::{KvmSandbox, Sandbox};

/// Every command leaves a mark, and the next command looks for it.
pub const PROBE: FnProbe = FnProbe {
    name: "marker-persistence",
    class: AttackerClass::A3,
    expectation: Expectation::ShouldFail,
    description: "Every command leaves a mark in files and processes; after a reset the next \
                  command looks for it everywhere, and now and then the host searches all memory \
                  and the whole disk",
    repeats: true,
    run,
};

/// Where every tool has a scratch directory of its own.
const SCRATCH: &str = "/tmp/";
/// The host searches memory and disk once in so many commands: it takes longer than a command.
const SEARCH_EVERY: u32 = 100;

fn run(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let sandbox = testbed.kvm(Guest::Shipped)?;
    let mut breaches: Vec<String> = control(testbed, &sandbox)?.into_iter().collect();
    let mut searches = 0;
    let mut leak = Leak::watch(testbed.plan().sandbox.memory_mib);
    for turn in 0..testbed.plan().iterations {
        testbed.progress().set(turn, testbed.plan().iterations);
        leak.at(turn, testbed.plan().iterations);
        let marker = search::marker();
        testbed.attack(&*sandbox, "attack_mark", json!({"marker": marker}))?;
        if !testbed.plan().leaves_out("reset") {
            sandbox.reset().map_err(ProbeError::at("resetting"))?;
        }
        if turn % SEARCH_EVERY == 0 {
            searches += 1;
            breaches.extend(anywhere(testbed, &sandbox, &marker)?);
        }
        let log = testbed.attack(&*sandbox, "attack_find", json!({"marker": marker}))?;
        let left = places(&log);
        if !left.is_empty() {
            breaches.push(format!("command {turn} finds the mark of the one before in {left:?}"));
        }
        if breaches.len() > 10 {
            break;
        }
        if !testbed.plan().leaves_out("reset") {
            sandbox.reset().map_err(ProbeError::at("resetting"))?;
        }
    }
    breaches.extend(leak.found());
    let commands = testbed.plan().iterations;
    let held = format!("{commands} marks left, none found; {searches} searches of everything");
    let evidence = json!({"commands": commands, "searches_of_everything": searches,
        "footprint": leak.evidence()});
    Ok(Verdict::of(&breaches, held, evidence))
}

/// The control: without a reset, guest and host find a mark. Gives the breach when the guest finds
/// it in the scratch directory of another tool.
pub fn control(testbed: &Testbed, sandbox: &KvmSandbox) -> Result<Option<String>, ProbeError> {
    let marker = search::marker();
    testbed.attack(sandbox, "attack_mark", json!({"marker": marker}))?;
    if anywhere(testbed, sandbox, &marker)?.is_none() {
        return Err(ProbeError::Control("the host does not find a mark that is there".into()));
    }
    let log = testbed.attack(sandbox, "attack_find", json!({"marker": marker}))?;
    let found = places(&log);
    if found.is_empty() {
        return Err(ProbeError::Control("the guest does not find a mark that is there".into()));
    }
    if let Some(wrong) = testbed.recover(sandbox) {
        return Err(ProbeError::Control(wrong));
    }
    let shared = found.iter().any(|place| place.starts_with(SCRATCH));
    Ok(shared.then(|| "a tool's scratch space is seen by another tool".to_owned()))
}

fn anywhere(
    testbed: &Testbed,
    sandbox: &KvmSandbox,
    marker: &str,
) -> Result<Option<String>, ProbeError> {
    let disk_bytes = sandbox.golden().and_then(|golden| golden.disk_bytes()).unwrap_or_default();
    let memory_mib = testbed.plan().sandbox.memory_mib;
    let [memory, disk] = testbed.held(sandbox, |machine| {
        let memory = search::memory(machine, memory_mib, &[marker])?;
        let disk = search::disk(machine, disk_bytes, &[marker])?;
        Ok([memory, disk].map(|found| found.contains(&true)))
    })?;
    Ok((memory || disk).then(|| format!("a mark is left: memory {memory}, disk {disk}")))
}

/// The places where an attack found a mark.
pub fn places(log: &AttackLog) -> Vec<&str> {
    let found = log.facts.get("found").and_then(Value::as_array);
    found.into_iter().flatten().filter_map(Value::as_str).collect()
}
