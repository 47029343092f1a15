//! Nothing of the host's files and memory is anywhere in the guest.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::attack_log::AttackLog;
use crate::{AttackerClass, Expectation, FnProbe, Guest, ProbeError, Testbed, Verdict, search};

/// A tool looks for files and memory of the host.
pub const AS_A_TOOL: FnProbe = FnProbe {
    name: "fs-escape",
    class: AttackerClass::A3,
    expectation: Expectation::ShouldFail,
    description: "A tool looks for a file of the host under every path, through links and mounts; \
                  a marker in that file and in the agent's memory is then searched for in the \
                  guest's memory, disk, output and evidence",
    repeats: false,
    run: |testbed| run(testbed, Guest::Shipped),
};

/// An attacker who is past all of the guest's own defences looks for files and memory of the host.
pub const AS_ROOT: FnProbe = FnProbe {
    name: "fs-escape-as-root",
    class: AttackerClass::A3,
    expectation: Expectation::ShouldFail,
    description: "As root and without confinement, an attack looks for a file of the host, with \
                  reads beyond the disk's end; the same search follows",
    repeats: false,
    run: |testbed| run(testbed, Guest::Bare),
};

/// How many copies of the marker are in the memory of this process.
const COPIES: usize = 4096;

/// Where on the disk, from its end, a host without isolation would put what it shares.
const SHARED_AT: u64 = 4096;

/// A marker that only the host has: in a file, and in the memory of this process.
struct HostSecret {
    marker: String,
    file: PathBuf,
    memory: Vec<u8>,
}

impl HostSecret {
    fn plant() -> Result<Self, ProbeError> {
        let marker = search::marker();
        // Its name must not give it away.
        let file = std::env::temp_dir().join(format!("redteam-{}", uuid::Uuid::new_v4()));
        fs::write(&file, &marker)?;
        let memory = marker.as_bytes().repeat(COPIES);
        Ok(Self { marker, file, memory })
    }
}

impl Drop for HostSecret {
    fn drop(&mut self) {
        std::hint::black_box(&self.memory);
        let _ = fs::remove_file(&self.file);
    }
}

/// Where a marker was found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Found {
    memory: bool,
    disk: bool,
    output: bool,
    evidence: bool,
    console: bool,
}

fn run(testbed: &Testbed, guest: Guest) -> Result<Verdict, ProbeError> {
    let host = HostSecret::plant()?;
    // The control: what is in the guest is found there by the same search.
    let own = search::marker();
    let sandbox = testbed.kvm(guest)?;
    let params = json!({"host_file": host.file, "secret": own});
    let outcome = testbed
        .run(&*sandbox, "attack_files", params, testbed.plan().deadline())
        .map_err(ProbeError::at("running the attack"))?;
    let log = AttackLog::read(&outcome)?;
    let disk_bytes = sandbox.golden().and_then(|golden| golden.disk_bytes()).unwrap_or_default();
    let memory_mib = testbed.plan().sandbox.memory_mib;
    let markers = [own.as_str(), host.marker.as_str()];
    let (memory, disk, console) = testbed.held(&sandbox, |machine| {
        if testbed.plan().leaves_out("isolation") {
            // A host without isolation shares its files.
            machine.write_disk(disk_bytes.saturating_sub(SHARED_AT), host.marker.as_bytes())?;
        }
        let memory = search::memory(machine, memory_mib, &markers)?;
        let disk = search::disk(machine, disk_bytes, &markers)?;
        Ok((memory, disk, machine.console().last_lines(usize::MAX).join("\n")))
    })?;
    let output = [outcome.stdout.as_slice(), &outcome.stderr].concat();
    let found = |index: usize| {
        let marker = markers.get(index).copied().unwrap_or_default();
        let at = |list: &[bool]| list.get(index).copied().unwrap_or_default();
        Found {
            memory: at(&memory),
            disk: at(&disk),
            output: search::occurs(&output, marker),
            evidence: search::occurs(outcome.chunks.data(), marker),
            console: console.contains(marker),
        }
    };
    verdict_on(&log, found(0), found(1))
}

fn verdict_on(log: &AttackLog, own: Found, host: Found) -> Result<Verdict, ProbeError> {
    // Nothing prints it to the console.
    let everywhere =
        Found { memory: true, disk: true, output: true, evidence: true, console: own.console };
    if own != everywhere {
        return Err(ProbeError::Control(format!("the guest's own marker is only in {own:?}")));
    }
    let mut breaches = log.breaches();
    if host != Found::default() {
        breaches.push(format!("the host's marker is in the guest: {host:?}"));
    }
    let held = format!("{} ways tried; the host's marker is nowhere", log.attempts.len());
    let evidence = json!({"attempts": log.attempts, "facts": log.facts,
        "searched": ["memory", "disk", "output", "evidence", "console"]});
    Ok(Verdict::of(&breaches, held, evidence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_marker_anywhere_fails_and_a_blind_search_is_no_verdict() {
        let log: AttackLog = serde_json::from_value(
            json!({"attack": "files", "controls": [], "attempts": [], "facts": {}}),
        )
        .unwrap();
        let own = Found { memory: true, disk: true, output: true, evidence: true, console: false };
        assert!(verdict_on(&log, own, Found::default()).unwrap().passed);
        for host in [
            Found { memory: true, ..Found::default() },
            Found { disk: true, ..Found::default() },
            Found { evidence: true, ..Found::default() },
        ] {
            assert!(!verdict_on(&log, own, host).unwrap().passed);
        }
        let blind = Found { memory: false, ..own };
        assert!(verdict_on(&log, blind, Found::default()).is_err());
    }
}
