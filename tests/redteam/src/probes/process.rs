//! A tool stays what it is, and whatever becomes of the machine, the host goes on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use guest::wire::DEFAULT_PORT;
use serde_json::json;
use vmm::Machine;

use crate::attack_log::AttackLog;
use crate::host::HostState;
use crate::{AttackerClass, Expectation, FnProbe, Guest, ProbeError, Testbed, Verdict};
use sandbox::{Incident, IncidentHandler, SandboxError, SandboxState};

/// A tool attacks PID 1, the kernel and devices.
pub const AS_A_TOOL: FnProbe = FnProbe {
    name: "process-escape",
    class: AttackerClass::A3,
    expectation: Expectation::ShouldFail,
    description: "A tool tries to kill, stop, trace and read PID 1, to reboot, to load modules and \
                  kernels, to open devices, and to get rights and namespaces",
    repeats: false,
    run: as_a_tool,
};

/// An attacker who is past all of the guest's own defences ends the machine.
pub const AS_ROOT: FnProbe = FnProbe {
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

fn as_a_tool(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let sandbox = testbed.sandbox(Guest::Shipped)?;
    if let Some(wrong) = testbed.next_command(&*sandbox) {
        return Err(ProbeError::Control(wrong));
    }
    let before = HostState::now();
    let outcome =
        match testbed.run(&*sandbox, "attack_process", json!({}), testbed.plan().deadline()) {
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
    breaches.extend(testbed.next_command(&*sandbox));
    breaches.extend(HostState::now().breaches(&before, growth(testbed)));
    let held = format!("{} ways tried, none worked", log.attempts.len());
    let evidence =
        json!({"controls": log.controls, "attempts": log.attempts, "answers": log.answers()});
    Ok(Verdict::of(&breaches, held, evidence))
}

fn as_root(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let sandbox = testbed.kvm(Guest::Bare)?;
    // A tool that ends its machine has failed: that is no sign of an attacker on the host.
    let alarms = Arc::new(Alarms::default());
    sandbox.set_incident_handler(Arc::clone(&alarms) as _);
    let before = HostState::now();
    let mut breaches = Vec::new();
    let mut seen = Vec::new();
    for (how, must_stop) in ENDS {
        // A host without recovery does not notice that its machine has ended.
        let kept = sandbox.machine().filter(|_| testbed.plan().leaves_out("recovery"));
        let begun = Instant::now();
        let result = testbed.run(&*sandbox, "attack_destroy", json!({"how": how}), DEADLINE);
        let stopped = matches!(result, Err(SandboxError::MachineStopped { .. }));
        if must_stop && result.is_ok() {
            // Without this it is not known what happens when a machine stops.
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
            None => testbed.recover(&*sandbox).or_else(|| testbed.next_command(&*sandbox)),
        };
        breaches.extend(wrong.map(|wrong| format!("after {how}: {wrong}")));
        breaches.extend(alarms.take().map(|why| format!("after {how}, a false alarm: {why}")));
    }
    breaches.extend(HostState::now().breaches(&before, growth(testbed)));
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
    /// Takes the incidents since the last call.
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

fn growth(testbed: &Testbed) -> u64 {
    u64::from(testbed.plan().sandbox.memory_mib) + GROWTH_MIB
}
