//! What it costs a machine to check its own resets, with a guest of a few bytes: it needs a
//! `/dev/kvm` and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use brainstorm_agent::bench::Report;
use vmm::{DiskImage, IntegrityPlan, IntegrityReport, Machine, MachineConfig, Strategy, micro};

const LIMIT: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;
/// Blocks of the disk that are written between two resets.
const BLOCKS: usize = 16;

/// Resets `rounds` machines without dirty disk blocks, then with [`BLOCKS`] on two sizes of disk.
pub fn measure(rounds: usize, pages: u32) -> Result<Report> {
    let mut report = Report::new("checks");
    let plan = IntegrityPlan::default();
    let mut medians = Vec::new();
    for (mib, blocks) in [(64, 0), (64, BLOCKS), (1024, BLOCKS)] {
        let (machine, golden) = machine(pages, mib)?;
        let what = format!("{pages} dirty pages, disk of {mib} MiB, {blocks} dirty blocks");
        let median = measure_one(&machine, &plan, rounds, blocks, &what, &mut report)?;
        let (disk, memory) = plan.resets_for_all(&golden);
        report.note(format!(
            "disk of {mib} MiB: all of it is read again within {disk} resets, all of memory within {memory}"
        ));
        if blocks > 0 {
            medians.push(median);
        }
    }
    if let [small, large] = medians.as_slice() {
        let ratio = large.as_secs_f64() / small.as_secs_f64();
        report.value("disk checks, 1024 MiB to 64 MiB", ratio, "times", Some("<= 1.2"));
    }
    Ok(report)
}

fn machine(pages: u32, disk_mib: usize) -> Result<(Machine, Arc<vmm::Golden>)> {
    let content: Vec<u8> = (0..disk_mib * MIB / 8)
        .flat_map(|word| (word as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    let config = MachineConfig::builder(micro::kernel(pages)?)
        .memory_mib(64.max(32 + pages / 256))
        .disk(DiskImage::from_bytes(&content)?)
        .console_bytes(1024)
        .build()?;
    let machine = Machine::create(config)?;
    drop(content);
    machine.boot_paused()?;
    let golden = machine.capture()?;
    golden.disk_root()?;
    golden.memory_root()?;
    Ok((machine, golden))
}

/// Adds what each part costs; returns the median of all that has to do with the disk.
fn measure_one(
    machine: &Machine,
    plan: &IntegrityPlan,
    rounds: usize,
    blocks: usize,
    what: &str,
    report: &mut Report,
) -> Result<Duration> {
    let mut parts: [(&str, Vec<Duration>); 9] = [
        "bare reset",
        "check before",
        "check after",
        "  of that, state",
        "  of that, memory",
        "  of that, disk",
        "both checks",
        "disk, both",
        "all in one step",
    ]
    .map(|name| (name, Vec::with_capacity(rounds)));
    for round in 0..rounds {
        work(machine, round, blocks)?;
        let begun = Instant::now();
        let mut findings = machine.check_before_reset()?;
        let before = begun.elapsed();
        let begun = Instant::now();
        machine.reset(Strategy::CopyBack)?;
        let reset = begun.elapsed();
        let begun = Instant::now();
        let checked = machine.check_after_reset(plan)?;
        let after = begun.elapsed();
        findings.extend(checked.findings);
        if let Some(finding) = findings.first() {
            bail!("{finding}");
        }
        let IntegrityReport { took, .. } = checked;
        work(machine, round, blocks)?;
        let begun = Instant::now();
        let mut findings = machine.check_before_reset()?;
        findings.extend(machine.reset_and_check(Strategy::CopyBack, plan)?.1?.findings);
        let together = begun.elapsed();
        if let Some(finding) = findings.first() {
            bail!("{finding}");
        }
        let all = [
            reset,
            before,
            after,
            took.state,
            took.memory,
            took.disk,
            before + after,
            before + took.disk,
            together,
        ];
        for ((_, times), time) in parts.iter_mut().zip(all) {
            times.push(time);
        }
    }
    for (name, times) in &mut parts {
        report.add(format!("{name} ({what})"), times, None);
        times.sort_unstable();
    }
    let median = |part: usize| {
        let times = parts.get(part).map_or(&[][..], |(_, times)| times);
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    let beyond = median(8).as_secs_f64() - median(0).as_secs_f64();
    report.value(
        format!("checks beyond the bare reset, p50 ({what})"),
        beyond * 1e6,
        "us",
        Some("<= 100"),
    );
    Ok(median(7))
}

/// Lets the guest write its pages, and writes to the disk in its stead.
fn work(machine: &Machine, round: usize, blocks: usize) -> Result<()> {
    let seen = machine.checkpoint().map_or(0, |mark| mark.count);
    machine.resume()?;
    machine.wait_checkpoint(seen, LIMIT).context("the guest did not work")?;
    machine.pause()?;
    for block in 0..blocks {
        machine.write_disk((block * 3 * BLOCK) as u64, &[round as u8; BLOCK])?;
    }
    Ok(())
}
