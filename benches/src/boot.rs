//! What the host's share of a boot costs: it runs at native speed on every KVM, because it ends
//! where the guest begins.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use vmm::{BootTimings, DiskImage, KernelImage, Machine, MachineConfig};

use brainstorm_agent::bench::Report;

const FIRST_RUN_LIMIT: Duration = Duration::from_secs(10);

/// One part of a boot: its name, how to read it, the bar it is held against.
type Part = (&'static str, fn(&BootTimings) -> Duration, Option<&'static str>);

const PARTS: [Part; 6] = [
    ("boot() to first KVM_RUN", |t| t.first_run, Some("<= 5 ms")),
    ("  map guest RAM", |t| t.memory, None),
    ("  create VM, irqchip, slots", |t| t.kvm_setup, None),
    ("  devices", |t| t.devices, None),
    ("  load kernel", |t| t.kernel_load, None),
    ("  vCPUs and threads", |t| t.vcpus, None),
];

/// Boots `iterations` machines of 128 MiB as far as their first entry into the guest.
pub fn measure(image_dir: &Path, iterations: usize, report: &mut Report) -> Result<()> {
    let kernel = Arc::new(KernelImage::open(&image_dir.join("vmlinux"))?);
    let disk = Arc::new(DiskImage::open(&image_dir.join("rootfs.ext4"))?);
    let mut timings = Vec::new();
    let mut shutdowns = Vec::new();
    for _ in 0..iterations {
        let config = MachineConfig::builder(Arc::clone(&kernel))
            .cmdline("console=ttyS0 quiet root=/dev/vda")
            .disk(Arc::clone(&disk))
            .console_bytes(4096)
            .build()?;
        let machine = Machine::create(config)?;
        machine.boot()?;
        timings.push(first_run(&machine)?);
        let start = Instant::now();
        machine.shutdown();
        shutdowns.push(start.elapsed());
    }
    for (name, part, bar) in PARTS {
        let samples: Vec<Duration> = timings.iter().map(part).collect();
        report.add(name, &samples, bar);
    }
    report.add("shutdown, memory given back", &shutdowns, None);
    Ok(())
}

fn first_run(machine: &Machine) -> Result<BootTimings> {
    let deadline = Instant::now() + FIRST_RUN_LIMIT;
    loop {
        let timings = machine.timings().context("the machine is gone")?;
        if !timings.first_run.is_zero() {
            return Ok(timings);
        }
        if Instant::now() > deadline {
            bail!("the guest was not entered within {FIRST_RUN_LIMIT:?}");
        }
        std::thread::yield_now();
    }
}
