//! A tool stays what it is, and whatever becomes of the machine, the host goes on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use guest::wire::DEFAULT_PORT;
use serde_json::json;
use vmm::Machine;

use super::super::attack_log::AttackLog;
use super::super::host::HostState;
use super::super::{Arena, AttackerClass, Expectation, Guest, Probe, ProbeError, Verdict};
use sandbox::{Incident, IncidentHandler, Sandbox, SandboxError, SandboxState};

/// What a tool can try.
pub const AS_A_TOOL: Probe = Probe {
    name: "process-escape",
    class: AttackerClass::A3,
    expectation: Expectation::ShouldFail,
    description: "A tool tries to kill, stop, trace and read PID 1, to reboot, to load modules and \
                  kernels, to open devices, and to get rights and namespaces",
    repeats: false,
    run: as_a_tool,
};

/// What is left to somebody who got through all of the guest's own defences.
pub const AS_ROOT: Probe = Probe {
    name: "process-escape-as-root",
    class: AttackerClass::A3,
    expectation: Expectation::ShouldFail,
    description: "As root and without confinement: reboot, power off, halt, and a kernel panic; the \
                  host notices, goes on, and has a working machine again",
    repeats: false,
    run: as_root,
};

/// Ways to end a machine, and whether the machine must have stopped: a halted processor with
/// interrupts off looks like one that waits.
const ENDS: [(&str, bool); 5] = [
    ("reboot", true),
    ("power-off", false),
    ("halt", false),
    ("kill-init", false),
    ("crash-init", true),
];
const DEADLINE: Duration = Duration::from_secs(3);
/// What an attack may cost the agent beyond the guest's own memory, in MiB.
const GROWTH_MIB: u64 = 64;

fn as_a_tool(arena: &Arena) -> Result<Verdict, ProbeError> {
    let sandbox = arena.sandbox(Guest::Shipped)?;
    if let Some(wrong) = arena.next_command(&sandbox) {
        return Err(ProbeError::Control(wrong));
    }
    let before = HostState::now();
    let outcome = match arena.run(&sandbox, "attack_process", json!({}), arena.plan().deadline()) {
        Ok(outcome) => outcome,
        // Another command has just worked.
        Err(error) => {
            let breach = format!("the attack ended more than itself: {error}");
            return Ok(Verdict::of(&[breach], "", json!({ "code": error.code() })));
        }
    };
    let log = AttackLog::read(&outcome)?;
    let mut breaches = log.breaches();
    if sandbox.state() != SandboxState::Ready {
        breaches.push(format!("the sandbox is {}", sandbox.state()));
    }
    breaches.extend(arena.next_command(&sandbox));
    breaches.extend(HostState::now().breaches(&before, growth(arena)));
    let held = format!("{} ways tried, none worked", log.attempts.len());
    let evidence =
        json!({"controls": log.controls, "attempts": log.attempts, "answers": log.answers()});
    Ok(Verdict::of(&breaches, held, evidence))
}

fn as_root(arena: &Arena) -> Result<Verdict, ProbeError> {
    let sandbox = arena.sandbox(Guest::Bare)?;
    // A tool that ends its machine has failed: it is no sign of somebody on the host.
    let alarms = Arc::new(Alarms::default());
    sandbox.set_incident_handler(Arc::clone(&alarms) as _);
    let before = HostState::now();
    let mut breaches = Vec::new();
    let mut seen = Vec::new();
    for (how, must_stop) in ENDS {
        // As a host would that does not notice that its machine has ended.
        let kept = sandbox.machine().filter(|_| arena.plan().leaves_out("recovery"));
        let begun = Instant::now();
        let result = arena.run(&sandbox, "attack_destroy", json!({"how": how}), DEADLINE);
        let stopped = matches!(result, Err(SandboxError::MachineStopped { .. }));
        if must_stop && result.is_ok() {
            // Without this nobody knows what happens when a machine stops.
            return Err(ProbeError::Control(format!("{how} did not stop the machine")));
        }
        let told = match &result {
            Ok(outcome) => format!("exit code {}", outcome.exit_code),
            Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
        };
        seen.push(json!({"end": how, "machine_stopped": stopped, "said": told,
            "noticed_after_ms": begun.elapsed().as_millis() as u64}));
        let wrong = match &kept {
            Some(machine) => ask(machine),
            None => arena.recover(&sandbox).or_else(|| arena.next_command(&sandbox)),
        };
        breaches.extend(wrong.map(|wrong| format!("after {how}: {wrong}")));
        breaches.extend(alarms.take().map(|why| format!("after {how}, a false alarm: {why}")));
    }
    breaches.extend(HostState::now().breaches(&before, growth(arena)));
    let held = format!("{} ends of a machine, each noticed and followed by a new one", seen.len());
    Ok(Verdict::of(&breaches, held, json!({ "ends": seen })))
}

/// Why a machine does not take the next command.
fn ask(machine: &Machine) -> Option<String> {
    let asked = machine.vsock().connect(DEFAULT_PORT, DEADLINE);
    asked.err().map(|error| format!("the next command failed: {error}"))
}

/// Incidents, in words.
#[derive(Default)]
struct Alarms(Mutex<Vec<String>>);

impl Alarms {
    /// Those since the last call.
    fn take(&self) -> impl Iterator<Item = String> + use<> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_iter()
    }
}

impl IncidentHandler for Alarms {
    fn on_incident(&self, incident: Incident) {
        let mut alarms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        alarms.push(incident.cause.reason());
    }
}

fn growth(arena: &Arena) -> u64 {
    u64::from(arena.plan().sandbox.memory_mib) + GROWTH_MIB
}
