//! `brainstorm-agent bench`

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use vmm::{DirtyTracking, Strategy};

use super::{Exit, terminal};
use crate::bench::{
    BenchError, CYCLE, NEXT_RUN, RESET, ResetBench, Row, measure_linux, measure_micro,
};
use crate::config::Config;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: Measurement,
}

#[derive(Debug, Subcommand)]
enum Measurement {
    /// How long it takes to put a dirty microVM back to its golden state. `--memory-mib` and
    /// `--vcpus` say how large it is.
    Reset(ResetArguments),
}

#[derive(Debug, Args)]
struct ResetArguments {
    /// `micro`: a few dozen bytes of guest code that dirty pages, on any KVM. `linux`: the image,
    /// with a tool run before each reset.
    #[arg(long, value_enum, default_value_t = Guest::Micro)]
    guest: Guest,
    /// Pages of 4 KiB to write to before each reset (micro only).
    #[arg(long, default_value_t = 256)]
    dirty: u32,
    /// How dirty pages are found (micro only): a bitmap of all memory, or a ring of entries.
    #[arg(long, value_enum, default_value_t = Tracking::Log)]
    tracking: Tracking,
    /// How dirty pages get their content back.
    #[arg(long, value_enum, default_value_t = StrategyName::CopyBack)]
    strategy: StrategyName,
    /// Pages that `hybrid` copies before it begins to drop.
    #[arg(long, default_value_t = Strategy::DEFAULT_COPY_PAGES)]
    copy_pages: usize,
    /// Number of resets to measure.
    #[arg(long, default_value_t = 1000)]
    iterations: u32,
    /// Show count and time of each kernel call of a reset (micro only). Taking them down makes the
    /// reset itself slower.
    #[arg(long)]
    calls: bool,
    /// Print JSON in the form `brainstorm-bench/1` of all benchmarks, with every sample.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Guest {
    Micro,
    Linux,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tracking {
    Log,
    Ring,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StrategyName {
    CopyBack,
    DropPrivate,
    Hybrid,
    FullCopy,
}

pub fn run(arguments: &Arguments, config: &Config) -> ExitCode {
    let Measurement::Reset(reset) = &arguments.what;
    match measure(reset, config) {
        Ok(row) => terminal::show(&row.report(), reset.json, || table(&row)),
        Err(error @ BenchError::Settings(_)) => terminal::complain(&error, Exit::Usage),
        Err(error) => terminal::complain(&error, Exit::ExecutorFailed),
    }
}

fn measure(arguments: &ResetArguments, config: &Config) -> Result<Row, BenchError> {
    if arguments.calls && arguments.guest == Guest::Linux {
        return Err(BenchError::Settings("--calls goes with --guest micro only".to_owned()));
    }
    let bench = ResetBench {
        memory_mib: config.sandbox.memory_mib,
        vcpus: config.sandbox.vcpus,
        dirty_pages: arguments.dirty,
        tracking: match arguments.tracking {
            Tracking::Log => DirtyTracking::Log,
            Tracking::Ring => DirtyTracking::Ring,
        },
        strategy: match arguments.strategy {
            StrategyName::CopyBack => Strategy::CopyBack,
            StrategyName::DropPrivate => Strategy::DropPrivate,
            StrategyName::Hybrid => Strategy::Hybrid { copy_pages: arguments.copy_pages },
            StrategyName::FullCopy => Strategy::FullCopy,
        },
        iterations: arguments.iterations.max(1),
        calls: arguments.calls,
    };
    let bar = ProgressBar::new(u64::from(bench.iterations));
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} resets") {
        bar.set_style(style);
    }
    let row = match arguments.guest {
        Guest::Micro => measure_micro(&bench, || bar.inc(1)),
        Guest::Linux => measure_linux(&config.sandbox, &config.kvm, &bench, || bar.inc(1)),
    };
    bar.finish_and_clear();
    row
}

fn table(row: &Row) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["", "p50", "p90", "p99", "max"]);
    for (name, d) in [(RESET, &row.reset), (CYCLE, &row.cycle), (NEXT_RUN, &row.next_run)] {
        let cell = |us: f64| format!("{us:.1} us");
        table.add_row([
            name.to_owned(),
            cell(d.p50_us),
            cell(d.p90_us),
            cell(d.p99_us),
            cell(d.max_us),
        ]);
    }
    let steps = row.parts_us.named().map(|(name, us)| format!("{name} {us:.1}")).join(", ");
    let calls = if row.calls.is_empty() { String::new() } else { calls_table(row) };
    format!(
        "{} guest, {} MiB, {} vCPU, {} dirty pages, {}, {} resets\n{}, {} CPUs, Linux {}, {} KVM\n\n\
         {table}\n\nMedian of each step, in us: {steps}\nFirst tenth {:.1}, last tenth {:.1}; resident memory {} KiB \
         before, {} after; descriptors {} before, {} after\n{calls}",
        row.guest,
        row.memory_mib,
        row.vcpus,
        row.dirty_pages,
        row.strategy,
        row.iterations,
        row.host.cpu,
        row.host.cpus,
        row.host.kernel,
        row.host.kvm,
        row.drift_us[0],
        row.drift_us[1],
        row.footprint[0].rss_kib,
        row.footprint[1].rss_kib,
        row.footprint[0].descriptors,
        row.footprint[1].descriptors,
    )
}

fn calls_table(row: &Row) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["kernel call", "a reset", "p50", "p90", "p99", "max"]);
    for call in &row.calls {
        let d = &call.one;
        let mut cells = vec![call.name.clone(), format!("{:.1}", call.per_reset)];
        cells.extend([d.p50_us, d.p90_us, d.p99_us, d.max_us].map(|us| format!("{us:.2} us")));
        table.add_row(cells);
    }
    format!("\n{table}\n")
}
