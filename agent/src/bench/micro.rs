//! Resets of a guest of a few dozen bytes: the host's share, at native speed on every KVM.

use std::time::{Duration, Instant};

use vmm::{Machine, MachineConfig, micro};

use super::{BenchError, Calls, ResetBench, Row, Samples};

/// Interpreted guests write about a page a microsecond.
const RUN_LIMIT: Duration = Duration::from_secs(30);
/// Resets before measuring: the first ones fault in what later ones find.
const WARM_UP: u32 = 5;

/// Measures resets. `progress` is called after each.
pub fn measure(bench: &ResetBench, mut progress: impl FnMut()) -> Result<Row, BenchError> {
    let end = micro::FIRST_PAGE + u64::from(bench.dirty_pages) * vmm::PAGE_BYTES as u64;
    if end > u64::from(bench.memory_mib) << 20 || bench.dirty_pages > micro::MAX_PAGES {
        return Err(BenchError::Settings(format!(
            "{} dirty pages do not fit {} MiB: the guest's pages begin at 16 MiB",
            bench.dirty_pages, bench.memory_mib
        )));
    }
    let kernel =
        micro::kernel(bench.dirty_pages).map_err(|e| BenchError::Settings(e.to_string()))?;
    let config = MachineConfig::builder(kernel)
        .vcpus(bench.vcpus)
        .memory_mib(bench.memory_mib)
        .console_bytes(4096)
        .build()
        .map_err(vmm::MachineError::from)?;
    let machine = Machine::create_with(config, bench.tracking)?;
    machine.boot_paused()?;
    machine.capture()?;

    let mut samples = Samples::new(bench.iterations);
    let mut calls = Calls::default();
    for iteration in 0..WARM_UP + bench.iterations {
        let seen = machine.checkpoint().map_or(0, |mark| mark.count);
        let resuming = Instant::now();
        machine.resume()?;
        let resume = resuming.elapsed();
        let mark = machine.wait_checkpoint(seen, RUN_LIMIT).ok_or(BenchError::Silent(RUN_LIMIT))?;
        let stopping = Instant::now();
        machine.pause()?;
        let stop = stopping.elapsed();
        let mut report = if bench.calls {
            let (report, made) = machine.reset_recording_calls(bench.strategy)?;
            if iteration >= WARM_UP {
                calls.add(&made);
            }
            report
        } else {
            machine.reset(bench.strategy)?
        };
        report.parts.stop = stop;
        report.parts.resume = resume;
        if iteration >= WARM_UP {
            samples.add(&report);
            let entered = machine.entered().unwrap_or(mark.at);
            samples.add_next_run(mark.at.saturating_duration_since(entered));
            progress();
        }
    }
    samples.end();
    let left = machine.differences()?;
    if !left.is_empty() {
        return Err(BenchError::NotGolden(left.to_string()));
    }
    Ok(Row { calls: calls.rows(), ..samples.row("micro", bench) })
}
