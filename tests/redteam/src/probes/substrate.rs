//! What is under the guest lies: an attacker on the host changes a machine behind its back.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use vmm::{IntegrityPlan, Machine, Tamper};

use crate::{AttackerClass, Expectation, FnProbe, Guest, ProbeError, Testbed, Verdict, search};
use sandbox::{FaultPoint, KvmConfig, KvmSandbox, Sandbox, SandboxState};

/// The host lies about one machine.
pub const LIES: FnProbe = FnProbe {
    name: "substrate-lies",
    class: AttackerClass::A6,
    expectation: Expectation::ShouldFail,
    description: "Between a command and the next, a bit is flipped in the disk's overlay and base, \
                  in clean, restored and unlogged memory, in registers, MSRs, interrupt \
                  controller and queues; or the machine is paused or gone: every time it is halted",
    repeats: false,
    run: |testbed| tell_all(testbed, LIE_LIST, || testbed.fork()),
};

/// The host lies about golden memory, of which all machines are made. This probe is the last: no
/// machine of that golden state is to be used afterwards.
pub const GOLDEN: FnProbe = FnProbe {
    name: "substrate-golden",
    class: AttackerClass::A6,
    expectation: Expectation::ShouldFail,
    description: "A bit is flipped in golden memory, from which every reset copies: a check that \
                  reads all of it halts the machine at once, and others in a known number of \
                  resets",
    repeats: false,
    run: |testbed| {
        let config = testbed.kvm_config()?;
        if let Some(golden) = testbed.kvm(Guest::Shipped)?.golden() {
            let (_, resets) = config.integrity.resets_for_all(&golden);
            testbed
                .note(format!("the usual check has read all golden memory after {resets} resets"));
        }
        let config = KvmConfig { integrity: IntegrityPlan::deep(), ..config.clone() };
        tell_all(testbed, GOLDEN_LIST, || Ok(KvmSandbox::new(testbed.spec(), config.clone())))
    },
};

/// A lie, when it is told, and in how many verified resets it must be noticed.
struct Lie {
    name: &'static str,
    when: FaultPoint,
    resets: u32,
    tell: fn(&Machine) -> Result<(), vmm::MachineError>,
}

/// Guest-physical address of a page of the kernel's text, which is never written to.
const TEXT: u64 = 0x0110_0000;
/// Guest-physical address of a page near the end of the smallest machine's memory.
const FAR: u64 = 0x03f0_0000;
/// Resets within which a check that reads samples must have found a lie.
const SOME: u32 = 8;

const LIE_LIST: &[Lie] = &[
    lie("overlay", FaultPoint::Held, 1, |machine| {
        let dirty = machine.dirty_blocks()?;
        match dirty.first() {
            Some(block) => machine.tamper(Tamper::Overlay { block: *block }),
            None => Err(vmm::MachineError::NotCaptured),
        }
    }),
    lie("base", FaultPoint::Reset, SOME, |machine| machine.tamper(Tamper::Base { block: 3 })),
    lie("clean-page", FaultPoint::Reset, SOME, |machine| {
        machine.tamper(Tamper::CleanPage { address: TEXT })
    }),
    lie("restored-page", FaultPoint::Reset, 1, |machine| machine.tamper(Tamper::RestoredPage)),
    lie("unlogged-page", FaultPoint::Held, SOME, |machine| {
        machine.tamper(Tamper::HideDirtyPage { address: FAR })
    }),
    lie("register", FaultPoint::Reset, 1, |machine| machine.tamper(Tamper::Register)),
    lie("msr", FaultPoint::Reset, 1, |machine| machine.tamper(Tamper::Msr)),
    lie("interrupt-controller", FaultPoint::Reset, 1, |machine| {
        machine.tamper(Tamper::InterruptController)
    }),
    lie("queue-index", FaultPoint::Reset, 1, |machine| machine.tamper(Tamper::QueueIndex)),
    lie("paused", FaultPoint::Running, 1, Machine::pause),
    lie("gone", FaultPoint::Running, 1, |machine| {
        machine.shutdown();
        Ok(())
    }),
];

const GOLDEN_LIST: &[Lie] = &[lie("golden-page", FaultPoint::Held, 1, |machine| {
    machine.tamper(Tamper::Golden { address: TEXT })
})];

const fn lie(
    name: &'static str,
    when: FaultPoint,
    resets: u32,
    tell: fn(&Machine) -> Result<(), vmm::MachineError>,
) -> Lie {
    Lie { name, when, resets, tell }
}

fn tell_all(
    testbed: &Testbed,
    lies: &[Lie],
    machine: impl Fn() -> Result<KvmSandbox, ProbeError>,
) -> Result<Verdict, ProbeError> {
    let mut breaches = Vec::new();
    let mut seen = Vec::new();
    let mut noticed = 0;
    for lie in lies {
        let sandbox = machine()?;
        sandbox.boot().map_err(ProbeError::at("booting a machine to lie about"))?;
        let found = if testbed.plan().leaves_out("verification") {
            believed(testbed, &sandbox, lie)?
        } else {
            tell(testbed, &sandbox, lie)?
        };
        seen.push(json!({"lie": lie.name, "resets": found.resets, "said": found.said}));
        match found.breach.map(|breach| format!("{}: {breach}", lie.name)) {
            Some(breach) => breaches.push(breach),
            None => noticed += 1,
        }
    }
    let told = lies.len();
    let held = format!("{noticed} of {told} lies noticed and the machine halted");
    Ok(Verdict::of(&breaches, held, json!({ "lies": seen })))
}

/// What became of a lie.
struct LieOutcome {
    breach: Option<String>,
    resets: u32,
    said: Value,
}

fn tell(testbed: &Testbed, sandbox: &KvmSandbox, lie: &Lie) -> Result<LieOutcome, ProbeError> {
    // The control: the same command and reset without a lie.
    dirty(testbed, sandbox)?;
    let honest = sandbox.reset_verified().map_err(ProbeError::at("resetting an honest machine"))?;
    if let Some(reason) = honest.verification.failure() {
        return Err(ProbeError::Control(format!("without a lie: {reason}")));
    }
    let told = Arc::new(Mutex::new(None));
    let (result, when, tell) = (Arc::clone(&told), lie.when, lie.tell);
    sandbox.inject_faults(Box::new(move |moment, machine| {
        let mut told = result.lock().unwrap_or_else(PoisonError::into_inner);
        if moment == when && told.is_none() {
            *told = Some(tell(machine).map_err(|e| e.to_string()));
        }
    }));
    for resets in 1..=lie.resets {
        dirty(testbed, sandbox)?;
        let result = sandbox.reset_verified();
        if let Some(Err(error)) = &*told.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(ProbeError::Control(format!("{} could not be told: {error}", lie.name)));
        }
        let said = match result {
            Ok(verified) => match verified.verification.failure() {
                None => continue,
                Some(reason) => reason,
            },
            Err(error) => error.to_string(),
        };
        let halted = matches!(sandbox.state(), SandboxState::Failed { .. });
        let refused = testbed.next_command(sandbox).is_some();
        let breach = (!halted || !refused)
            .then(|| format!("it was noticed, and the sandbox is {}", sandbox.state()));
        return Ok(LieOutcome { breach, resets, said: json!(said) });
    }
    let breach = Some(format!("no source noticed in {} resets", lie.resets));
    Ok(LieOutcome { breach, resets: lie.resets, said: Value::Null })
}

/// What becomes of a lie when a machine is not verified after its reset.
fn believed(testbed: &Testbed, sandbox: &KvmSandbox, lie: &Lie) -> Result<LieOutcome, ProbeError> {
    let tell = || testbed.held(sandbox, |machine| Ok((lie.tell)(machine)?));
    dirty(testbed, sandbox)?;
    if lie.when == FaultPoint::Held {
        tell()?;
    }
    sandbox.reset().map_err(ProbeError::at("resetting"))?;
    if lie.when == FaultPoint::Reset {
        tell()?;
    }
    let goes_on = testbed.next_command(sandbox).is_none();
    let breach = goes_on.then(|| "no source noticed: the next command ran".to_owned());
    Ok(LieOutcome { breach, resets: 1, said: Value::Null })
}

/// A command that writes to memory and disk.
fn dirty(testbed: &Testbed, sandbox: &KvmSandbox) -> Result<(), ProbeError> {
    let params = json!({"host_file": "/nowhere", "secret": search::marker()});
    testbed.attack(sandbox, "attack_files", params).map(drop)
}
