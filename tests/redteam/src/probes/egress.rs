//! Nothing inside the machine reaches anything outside of it.

use serde_json::{Value, json};
use vmm::VsockCounters;

use crate::attack_log::AttackLog;
use crate::{AttackerClass, Expectation, FnProbe, Guest, ProbeError, Verdict};
use sandbox::KvmSandbox;

/// A tool looks for a way out of the machine.
pub const AS_A_TOOL: FnProbe = FnProbe {
    name: "egress",
    class: AttackerClass::A3,
    expectation: Expectation::ShouldFail,
    description: "A tool tries every socket family, the Internet, vsock to other ports and \
                  addresses, others' Unix sockets, and ways around the system call filter",
    repeats: false,
    run: |testbed| {
        let sandbox = testbed.kvm(Guest::Shipped)?;
        let before = counters(&sandbox)?;
        let log = testbed.attack(&*sandbox, "attack_egress", json!({}))?;
        Ok(verdict_on(&log, Packets::since(before, counters(&sandbox)?), Expected::NoPacket))
    },
};

/// An attacker who is past all of the guest's own defences looks for a way out of the machine.
pub const AS_ROOT: FnProbe = FnProbe {
    name: "egress-as-root",
    class: AttackerClass::A3,
    expectation: Expectation::ShouldFail,
    description: "As root and without any confinement in the guest, an attack tries every way out: \
                  what counts is the machine alone",
    repeats: false,
    run: |testbed| {
        let sandbox = testbed.kvm(Guest::Bare)?;
        let machine = sandbox.machine();
        let Some(machine) = machine else {
            return Err(ProbeError::Control("there is no machine".into()));
        };
        let listener = machine
            .vsock()
            .listen(LISTENING)
            .map_err(|e| ProbeError::Control(format!("listening on a vsock port: {e}")))?;
        // A host without isolation serves other ports to its guests.
        let open = testbed.plan().leaves_out("isolation").then(|| machine.vsock().listen(TRIED));
        let before = counters(&sandbox)?;
        let params = json!({"listening": LISTENING.to_string()});
        let log = testbed.attack(&*sandbox, "attack_egress", params)?;
        drop((listener, open));
        Ok(verdict_on(&log, Packets::since(before, counters(&sandbox)?), Expected::Refusals))
    },
};

/// The vsock port at which the host does answer, as a control.
const LISTENING: u32 = 7_001;
/// One of the vsock ports that the attack tries.
const TRIED: u32 = 80;
/// Block device, entropy source, socket device (virtio 1.2, section 5).
const DEVICES: [&str; 3] = ["0x0002", "0x0004", "0x0013"];
/// The kernel's loopback device, which leads nowhere.
const LOOPBACK: &str = "lo";

/// What must have become of the attack's packets at the host's vsock device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// No packet reached the device.
    NoPacket,
    /// Packets reached the device, which refused them.
    Refusals,
}

/// Packets of the guest that the host refused, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packets {
    to_closed_ports: u64,
    to_other_addresses: u64,
    under_other_addresses: u64,
}

impl Packets {
    fn since(before: VsockCounters, now: VsockCounters) -> Self {
        Self {
            to_closed_ports: now.refused_no_listener - before.refused_no_listener,
            to_other_addresses: now.wrong_destination - before.wrong_destination,
            under_other_addresses: now.spoofed_source - before.spoofed_source,
        }
    }
}

fn counters(sandbox: &KvmSandbox) -> Result<VsockCounters, ProbeError> {
    let machine = sandbox.machine();
    machine
        .map(|machine| machine.vsock().counters())
        .ok_or_else(|| ProbeError::Control("the machine is gone".into()))
}

fn verdict_on(log: &AttackLog, packets: Packets, expected: Expected) -> Verdict {
    let mut breaches = log.breaches();
    let list = |name: &str| -> Vec<&str> {
        let values = log.facts.get(name).and_then(Value::as_array);
        values.into_iter().flatten().filter_map(Value::as_str).collect()
    };
    if let Some(other) = list("interfaces").iter().find(|name| **name != LOOPBACK) {
        breaches.push(format!("there is a network interface {other}"));
    }
    if list("virtio_devices") != DEVICES {
        breaches.push(format!("its devices are {:?}, not {DEVICES:?}", list("virtio_devices")));
    }
    if log.facts.get("pci") != Some(&Value::Bool(false)) {
        breaches.push("there is a PCI bus".to_owned());
    }
    let got_through = packets != Packets::since(VsockCounters::default(), VsockCounters::default());
    match expected {
        Expected::NoPacket if got_through => {
            breaches.push(format!("packets of a tool reached the host: {packets:?}"));
        }
        // Otherwise it is not known whether the host refuses anything.
        Expected::Refusals if packets.to_closed_ports == 0 => {
            breaches.push("no attempt was counted by the host".to_owned());
        }
        Expected::NoPacket | Expected::Refusals => {}
    }
    let held = format!("{} ways tried, none led out", log.attempts.len());
    let evidence = json!({
        "controls": log.controls,
        "attempts": log.attempts,
        "answers": log.answers(),
        "facts": log.facts,
        "refused_by_host": {
            "to_closed_ports": packets.to_closed_ports,
            "to_other_addresses": packets.to_other_addresses,
            "under_other_addresses": packets.under_other_addresses,
        },
    });
    Verdict::of(&breaches, held, evidence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(fact: &str, value: Value) -> AttackLog {
        let mut log = json!({
            "attack": "egress", "controls": [],
            "attempts": [{"name": "tcp", "to": "x", "ok": false, "errno": "EPERM"}],
            "facts": {"interfaces": ["lo"], "virtio_devices": DEVICES, "pci": false},
        });
        if !fact.is_empty() {
            log["facts"][fact] = value;
        }
        serde_json::from_value(log).unwrap()
    }

    const NONE: Packets =
        Packets { to_closed_ports: 0, to_other_addresses: 0, under_other_addresses: 0 };

    #[test]
    fn a_way_out_or_a_device_too_many_fails() {
        let passes = |log: &AttackLog| verdict_on(log, NONE, Expected::NoPacket).passed;
        assert!(passes(&log("", Value::Null)));
        assert!(!passes(&log("interfaces", json!(["lo", "eth0"]))));
        assert!(!passes(&log("virtio_devices", json!(["0x0001", "0x0002"]))));
        assert!(!passes(&log("pci", json!(true))));
        let mut out = log("", Value::Null);
        out.attempts[0].ok = true;
        assert!(!passes(&out));
    }

    #[test]
    fn packets_count() {
        let some = Packets { to_closed_ports: 3, ..NONE };
        let log = log("", Value::Null);
        assert!(!verdict_on(&log, some, Expected::NoPacket).passed);
        assert!(verdict_on(&log, some, Expected::Refusals).passed);
        assert!(!verdict_on(&log, NONE, Expected::Refusals).passed);
    }
}
