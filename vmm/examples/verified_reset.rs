//! Measures what it costs a machine to check its own resets, with a guest of a few bytes: it needs
//! a `/dev/kvm` and nothing else.
//!
//! ```text
//! cargo run --release -p vmm --example verified_reset -- [ROUNDS [PAGES]]
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm::{DiskImage, IntegrityPlan, IntegrityReport, Machine, MachineConfig, Strategy, micro};

const LIMIT: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;
/// Blocks of the disk that are written between two resets.
const BLOCKS: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse());
    let rounds: usize = numbers.next().transpose()?.unwrap_or(2000);
    let pages: u32 = numbers.next().transpose()?.map_or(256, |pages: usize| pages as u32);

    println!("{rounds} resets, {pages} dirty pages, microseconds: p10, p50, p90, p99, max");
    let machine = machine(pages, 64)?;
    let plan = IntegrityPlan::default();
    let (disk, memory) = plan.resets_for_all(&machine.1);
    measure(&machine.0, &plan, rounds, 0)?;
    println!("  all of the disk is read again within {disk} resets, all of memory within {memory}");

    let mut medians = Vec::new();
    for mib in [64, 1024] {
        let machine = self::machine(pages, mib)?;
        println!("disk of {mib} MiB, {BLOCKS} dirty blocks");
        medians.push(measure(&machine.0, &plan, rounds, BLOCKS)?);
        let (disk, memory) = plan.resets_for_all(&machine.1);
        println!("  all of the disk again within {disk} resets, all of memory within {memory}");
    }
    if let [small, large] = medians.as_slice() {
        println!(
            "disk checks, 1024 MiB to 64 MiB: {:.2}",
            large.as_secs_f64() / small.as_secs_f64()
        );
    }
    Ok(())
}

fn machine(pages: u32, disk_mib: usize) -> Result<(Machine, Arc<vmm::Golden>), Box<dyn Error>> {
    let content: Vec<u8> = (0..disk_mib * MIB / 8)
        .flat_map(|word| (word as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    let machine = Machine::create(MachineConfig {
        vcpus: 1,
        memory_mib: 64.max(32 + pages / 256),
        kernel: Arc::new(micro::kernel(pages)?),
        cmdline: String::new(),
        disk: Some(Arc::new(DiskImage::from_bytes(&content)?)),
        guest_cid: 3,
        console_bytes: 1024,
    })?;
    drop(content);
    machine.boot_paused()?;
    let golden = machine.capture()?;
    golden.disk_root()?;
    golden.memory_root()?;
    Ok((machine, golden))
}

/// Prints what each part costs; returns the median of all that has to do with the disk.
fn measure(
    machine: &Machine,
    plan: &IntegrityPlan,
    rounds: usize,
    blocks: usize,
) -> Result<Duration, Box<dyn Error>> {
    let mut parts: [(&str, Vec<Duration>); 10] = [
        "bare reset",
        "check before",
        "check after",
        "  of that, state",
        "  of that, memory",
        "  of that, disk",
        "both checks",
        "disk, both",
        "all in one step",
        "pages",
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
        let report = machine.check_after_reset(plan)?;
        let after = begun.elapsed();
        findings.extend(report.findings);
        if let Some(finding) = findings.first() {
            return Err(finding.to_string().into());
        }
        let IntegrityReport { took, pages, .. } = report;
        work(machine, round, blocks)?;
        let begun = Instant::now();
        let mut findings = machine.check_before_reset()?;
        findings.extend(machine.reset_and_check(Strategy::CopyBack, plan)?.1?.findings);
        let together = begun.elapsed();
        if let Some(finding) = findings.first() {
            return Err(finding.to_string().into());
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
            Duration::from_micros(pages as u64),
        ];
        for ((_, times), time) in parts.iter_mut().zip(all) {
            times.push(time);
        }
    }
    for (name, times) in &mut parts {
        times.sort_unstable();
        let at = |hundredths: usize| {
            let index = (times.len() * hundredths).div_ceil(100).saturating_sub(1);
            times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        println!(
            "  {name:18} {:8.1} {:8.1} {:8.1} {:8.1} {:8.1}",
            at(10),
            at(50),
            at(90),
            at(99),
            at(100)
        );
    }
    let median = |part: usize| {
        let times = parts.get(part).map_or(&[][..], |(_, times)| times);
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    let beyond = median(8).as_secs_f64() - median(0).as_secs_f64();
    println!("  all in one step, beyond the bare reset (p50): {:.1}", beyond * 1e6);
    Ok(median(7))
}

/// Lets the guest write its pages, and writes to the disk in its stead.
fn work(machine: &Machine, round: usize, blocks: usize) -> Result<(), Box<dyn Error>> {
    let seen = machine.checkpoint().map_or(0, |mark| mark.count);
    machine.resume()?;
    machine.wait_checkpoint(seen, LIMIT).ok_or("the guest did not work")?;
    machine.pause()?;
    for block in 0..blocks {
        machine.write_disk((block * 3 * BLOCK) as u64, &[round as u8; BLOCK])?;
    }
    Ok(())
}
