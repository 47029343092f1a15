//! What another machine in a golden state costs: time to its first entry, memory of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use brainstorm_agent::bench::{Footprint, Report};
use vmm::snapshot_file::Expectation;
use vmm::{BootTimings, Golden, Machine, MachineConfig, micro};

const FIRST_RUN_LIMIT: Duration = Duration::from_secs(10);
/// Machines that stand idle while their memory is counted.
const IDLE: u64 = 16;

/// One part of a fork: its name and how to read it.
type Part = (&'static str, fn(&BootTimings) -> Duration);

const PARTS: [Part; 4] = [
    ("  map golden memory", |t| t.memory),
    ("  create VM, irqchip, slots", |t| t.kvm_setup),
    ("  devices", |t| t.devices),
    ("  vCPUs, their state and threads", |t| t.vcpus),
];

/// Forks a golden state of 128 MiB `iterations` times.
pub fn measure(iterations: usize, report: &mut Report) -> Result<()> {
    let config = MachineConfig::builder(micro::kernel(256)?).console_bytes(4096).build()?;
    let machine = Machine::create(config)?;
    machine.boot_paused()?;
    let golden = machine.capture()?;
    let mut forks = Vec::new();
    let mut ends = Vec::new();
    let mut parts = Vec::new();
    for _ in 0..iterations {
        let begun = Instant::now();
        let fork = Machine::fork(&golden)?;
        fork.resume()?;
        fork.wait_checkpoint(0, FIRST_RUN_LIMIT).context("a fork does not run")?;
        let entered = fork.entered().context("a fork was not entered")?;
        forks.push(entered.duration_since(begun));
        parts.push(fork.timings().unwrap_or_default());
        let ending = Instant::now();
        drop(fork);
        ends.push(ending.elapsed());
    }
    report.add("fork to first KVM_RUN, 128 MiB", &forks, Some("<= 1 ms"));
    for (name, part) in PARTS {
        report.add(name, &parts.iter().map(part).collect::<Vec<_>>(), None);
    }
    report.add("end of a fork", &ends, None);
    let file = std::env::temp_dir().join(format!("bsm-bench-{}.snapshot", std::process::id()));
    golden.save(&file)?;
    let restores = restores(&file, iterations);
    std::fs::remove_file(&file)?;
    report.add("snapshot file to first KVM_RUN", &restores?, Some("<= 5 ms"));

    let before = Footprint::now();
    let idle = (0..IDLE).map(|_| Machine::fork(&golden)).collect::<Result<Vec<_>, _>>()?;
    let after = Footprint::now();
    report.note(format!(
        "memory of an idle fork: {} KiB (bar: 1024 KiB)",
        after.rss_kib.saturating_sub(before.rss_kib) / IDLE
    ));
    drop(idle);
    Ok(())
}

/// Starts machines from a file that is in the page cache.
fn restores(file: &Path, iterations: usize) -> Result<Vec<Duration>> {
    (0..iterations)
        .map(|_| {
            let begun = Instant::now();
            let golden = Golden::load(file, &Expectation::default())?;
            let machine = Machine::fork(&golden)?;
            machine.resume()?;
            machine.wait_checkpoint(0, FIRST_RUN_LIMIT).context("a machine does not run")?;
            let entered = machine.entered().context("a machine was not entered")?;
            Ok(entered.duration_since(begun))
        })
        .collect()
}
