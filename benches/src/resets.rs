//! Resets over dirty pages, memory sizes and strategies, each beside the floor.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use benches::sweep::{Row, csv, plots, table};
use brainstorm_agent::bench::{Distribution, Report, ResetBench, measure_micro};
use indicatif::{ProgressBar, ProgressStyle};
use vmm::{DirtyTracking, Strategy};

use crate::floor;

const PAGES: [u64; 6] = [16, 64, 256, 1024, 4096, 16384];
const MEMORY_MIB: [u32; 7] = [64, 128, 256, 512, 1024, 2048, 4096];
const PAGES_MEMORY_MIB: u32 = 128;
const MEMORY_PAGES: u64 = 256;
/// From here on copying all of memory takes too long to be repeated often.
const FULL_COPY_AT_MOST_MIB: u32 = 1024;
/// Software KVM writes on in a ring that is full, so a ring is only measured where it is not.
const RING_HOLDS: u64 = 16_000;
/// Name of the rows that copy back what a dirty ring has found.
const RING: &str = "copy-back, ring";
const STRATEGIES: [Strategy; 4] = [
    Strategy::CopyBack,
    Strategy::DropPrivate,
    Strategy::Hybrid { copy_pages: Strategy::DEFAULT_COPY_PAGES },
    Strategy::FullCopy,
];

/// Measures everything, and writes `reset.csv` and plots into `directory`.
pub fn measure(directory: &Path, iterations: u32) -> Result<Report> {
    let mut points: Vec<(u32, u64)> = PAGES.map(|pages| (PAGES_MEMORY_MIB, pages)).to_vec();
    points.extend(MEMORY_MIB.map(|memory| (memory, MEMORY_PAGES)));
    points.sort_unstable();
    points.dedup();
    let bar = ProgressBar::new(points.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    let mut rows = Vec::new();
    for (memory_mib, dirty_pages) in points {
        bar.set_message(format!("{memory_mib} MiB, {dirty_pages} pages"));
        let iterations = fewer(iterations, dirty_pages);
        rows.push(floor::measure(memory_mib, dirty_pages, iterations)?);
        for strategy in STRATEGIES {
            let full = strategy == Strategy::FullCopy;
            if full && memory_mib > FULL_COPY_AT_MOST_MIB {
                continue;
            }
            let bench = ResetBench {
                memory_mib,
                vcpus: 1,
                dirty_pages: dirty_pages as u32,
                tracking: DirtyTracking::Log,
                strategy,
                iterations: if full { iterations.div_ceil(20) } else { iterations },
                calls: false,
            };
            rows.push(row(&bench, dirty_pages)?);
            if strategy == Strategy::CopyBack && dirty_pages < RING_HOLDS {
                let ring = ResetBench { tracking: DirtyTracking::Ring, ..bench };
                let measured = row(&ring, dirty_pages)?;
                rows.push(Row { strategy: RING.to_owned(), ..measured });
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    csv::write_csv(&directory.join("reset.csv"), &rows)?;
    plots::write_plots(directory, &rows)?;
    let mut report = Report::new("resets");
    for row in &rows {
        let Row { strategy, memory_mib, dirty_pages, iterations, .. } = row;
        let Row { p50_us, p90_us, p99_us, max_us, .. } = *row;
        let name = format!("{strategy}, {memory_mib} MiB, {dirty_pages} dirty pages");
        let distribution = Distribution { p50_us, p90_us, p99_us, max_us };
        report.add_distribution(name, *iterations as usize, distribution, None);
    }
    report.show_instead(table::markdown(&rows));
    report.note(format!("CSV and plots are in {}.", directory.display()));
    Ok(report)
}

/// Interpreted guests take 3 us to write to a page: a fifth of the resets still make a p99.
fn fewer(iterations: u32, dirty_pages: u64) -> u32 {
    if dirty_pages >= 4096 { iterations.div_ceil(5) } else { iterations }
}

/// Measures one point. The few pages that the machine itself dirties are not counted, so that
/// rows of one point stand together.
fn row(bench: &ResetBench, dirty_pages: u64) -> Result<Row> {
    let measured = measure_micro(bench, || {})?;
    let Distribution { p50_us, p90_us, p99_us, max_us } = measured.reset;
    Ok(Row {
        guest: measured.guest,
        memory_mib: measured.memory_mib,
        vcpus: measured.vcpus,
        dirty_pages,
        strategy: measured.strategy,
        iterations: measured.iterations,
        p50_us,
        p90_us,
        p99_us,
        max_us,
        parts_us: measured.parts_us,
        next_run_us: measured.next_run.p50_us,
        samples_us: measured.samples_us,
    })
}
