//! Measurements, printed as distributions. `cargo xtask bench` runs both parts where they belong.

mod exits;
mod floor;
mod forks;
mod linux;
mod memory;
mod native;
mod report;
mod resets;
mod verified;

use std::path::PathBuf;

use clap::Parser;

#[derive(Parser)]
#[command(about = "Measures boots and tool calls")]
struct Arguments {
    /// Host-side measurements: any KVM will do.
    #[arg(long)]
    native: bool,
    /// Measurements on a Linux guest: needs a KVM that runs Linux.
    #[arg(long)]
    linux: bool,
    /// Sweep resets of the micro guest over dirty pages, memory sizes and strategies.
    #[arg(long)]
    resets: bool,
    /// Where the sweep writes its CSV file and plots.
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
    /// Resets for each point of the sweep.
    #[arg(long, default_value_t = 300)]
    iterations: u32,
    /// Directory with vmlinux, rootfs.ext4 and manifest.json.
    #[arg(long, env = "BSM_IMAGE_DIR", default_value = "target/image")]
    image_dir: PathBuf,
    /// Machines to boot.
    #[arg(long, default_value_t = 100)]
    boots: usize,
    /// Calls of `echo`.
    #[arg(long, default_value_t = 1000)]
    calls: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut report = report::Report::default();
    if arguments.native {
        native::boot(&arguments.image_dir, arguments.boots, &mut report)?;
        forks::measure(arguments.boots, &mut report)?;
    }
    if arguments.linux {
        // Emulated boots take seconds; a fifth of them still make a distribution.
        let boots = arguments.boots.div_ceil(5);
        linux::measure(&arguments.image_dir, boots, arguments.calls, &mut report)?;
    }
    if arguments.resets {
        let table = resets::sweep(&arguments.output, arguments.iterations)?;
        println!("{table}\nCSV and plots are in {}.", arguments.output.display());
    }
    report.print(arguments.json)
}
