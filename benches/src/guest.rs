//! What a Linux guest costs: boots to ready, tool calls, memory; beside the cost of one exit.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use brainstorm_agent::bench::{Report, ResetBench, measure_linux};
use sandbox::{
    BootReport, ImageSource, KvmConfig, KvmImage, KvmSandbox, Resets, Sandbox, SandboxSpec,
    ToolCall,
};

use vmm::{DirtyTracking, Strategy};

use crate::exits;
use crate::memory;
use crate::verified;

/// One part of a boot: its name, how to read it, the bar it is held against.
type Part = (&'static str, fn(&BootReport) -> Duration, Option<&'static str>);

const PARTS: [Part; 5] = [
    ("boot() to the guest's ready message", |r| r.to_ready, Some("<= 600 ms nested")),
    ("  boot() to first KVM_RUN", |r| r.machine.took("first_run"), None),
    (
        "  guest kernel start to ready, guest's clock",
        |r| Duration::from_micros(r.guest_boot_us),
        None,
    ),
    ("control connection after ready", |r| r.handshake, None),
    ("boot() altogether, image already loaded", |r| r.total, None),
];

/// Boots `boots` sandboxes and calls `echo` `calls` times in the last one.
pub fn measure(image_dir: &Path, boots: usize, calls: usize, report: &mut Report) -> Result<()> {
    let source = ImageSource::directory(image_dir);
    let start = Instant::now();
    let image = Arc::new(KvmImage::open(&source)?);
    report.add("read, hash and seal the image, once", &[start.elapsed()], None);

    let spec = SandboxSpec::new(source).with_resets(Resets::None);
    let config = KvmConfig::default();
    let mut boot_reports = Vec::new();
    let mut last = None;
    for _ in 0..boots.max(1) {
        let sandbox = KvmSandbox::with_image(spec.clone(), config.clone(), Arc::clone(&image));
        boot_reports.push(sandbox.boot()?);
        last = Some(sandbox);
    }
    for (name, part, bar) in PARTS {
        let samples: Vec<Duration> = boot_reports.iter().map(part).collect();
        report.add(name, &samples, bar);
    }

    let sandbox = last.context("no sandbox")?;
    let mut round_trips = Vec::new();
    let mut in_guest = Vec::new();
    for _ in 0..calls {
        let params = serde_json::json!({"message": "hello"});
        let call = ToolCall::new("echo", params.as_object().cloned().unwrap_or_default());
        let outcome = sandbox.execute_tool(call)?;
        ensure!(outcome.stdout == b"hello\n", "echo said {:?}", outcome.stdout);
        round_trips.push(outcome.round_trip);
        in_guest.push(outcome.in_guest);
    }
    report.add("echo round trip", &round_trips, None);
    report.add("  of which in the guest", &in_guest, None);
    drop(sandbox);

    let bench = ResetBench {
        memory_mib: spec.memory_mib,
        vcpus: spec.vcpus,
        dirty_pages: 0,
        tracking: DirtyTracking::Log,
        strategy: Strategy::CopyBack,
        iterations: calls as u32,
        calls: false,
    };
    let row = measure_linux(&spec, &config, &bench, || {})?;
    let resets: Vec<Duration> =
        row.samples_us.iter().map(|us| Duration::from_secs_f64(us / 1e6)).collect();
    report.add("reset after echo", &resets, Some("<= 10 ms"));
    report.note(format!(
        "reset after echo: {} dirty pages; median of the first tenth {:.0} us, of the last {:.0} us",
        row.dirty_pages, row.drift_us[0], row.drift_us[1]
    ));

    verified::measure(image_dir, &image, calls, report)?;

    report.add("one PIO exit", &exits::pio()?, None);
    report.note(memory::per_machine(&spec, &config, &image)?);
    Ok(())
}
