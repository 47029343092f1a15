//! Measurements, printed as distributions. `cargo xtask bench` runs both parts where they belong.

mod native;
mod report;
mod stats;

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
    /// Directory with vmlinux, rootfs.ext4 and manifest.json.
    #[arg(long, env = "BSM_IMAGE_DIR", default_value = "target/image")]
    image_dir: PathBuf,
    /// Machines to boot.
    #[arg(long, default_value_t = 100)]
    boots: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut report = report::Report::default();
    if arguments.native {
        native::boot(&arguments.image_dir, arguments.boots, &mut report)?;
    }
    report.print(arguments.json)
}
