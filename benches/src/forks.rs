//! What another machine in a golden state costs: time to its first entry, memory of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use brainstorm_agent::bench::Footprint;
use vmm::{Machine, MachineConfig, micro};

use crate::report::Report;

const FIRST_RUN_LIMIT: Duration = Duration::from_secs(10);
/// Machines that stand idle while their memory is counted.
const IDLE: u64 = 16;

/// Forks a golden state of 128 MiB `iterations` times.
pub fn measure(iterations: usize, report: &mut Report) -> Result<()> {
    let machine = Machine::create(MachineConfig {
        vcpus: 1,
        memory_mib: 128,
        kernel: Arc::new(micro::kernel(256)?),
        cmdline: String::new(),
        disk: None,
        guest_cid: 3,
        console_bytes: 4096,
    })?;
    machine.boot_paused()?;
    let golden = machine.capture()?;
    let mut forks = Vec::new();
    let mut ends = Vec::new();
    for _ in 0..iterations {
        let begun = Instant::now();
        let fork = Machine::fork(&golden)?;
        fork.resume()?;
        fork.wait_checkpoint(0, FIRST_RUN_LIMIT).context("a fork does not run")?;
        let entered = fork.entered().context("a fork was not entered")?;
        forks.push(entered.duration_since(begun));
        let ending = Instant::now();
        drop(fork);
        ends.push(ending.elapsed());
    }
    report.add("fork to first KVM_RUN, 128 MiB", &forks, Some("<= 1 ms"));
    report.add("end of a fork", &ends, None);
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
