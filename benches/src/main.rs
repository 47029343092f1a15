//! Measurements, each a subcommand. All print the same report: a table, or one JSON document.
//! `cargo xtask bench` runs them where they belong.
#![allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]

mod accept;
mod boot;
mod checks;
mod commands;
mod deliveries;
mod exits;
mod floor;
mod forks;
mod guest;
mod memory;
mod pages;
mod resets;
mod signatures;
mod stores;
mod verified;

use std::path::PathBuf;

use brainstorm_agent::bench::Report;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures boots, resets, checks, stores and commands")]
struct Arguments {
    /// Print one JSON document instead of a table
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// The host's share of a boot, and forks; any KVM will do
    Boot {
        #[command(flatten)]
        image: ImageDir,
        /// Machines to boot
        #[arg(long, default_value_t = 100)]
        boots: usize,
    },
    /// Resets of the micro guest over dirty pages, memory sizes and strategies; any KVM will do
    Resets {
        /// Where the CSV file and the plots go
        #[arg(long, default_value = "target/bench")]
        output: PathBuf,
        /// Resets for each point of the sweep
        #[arg(long, default_value_t = 300)]
        iterations: u32,
    },
    /// The checks of a reset that look at disk, memory and state; any KVM will do
    Checks {
        /// Resets for each disk size
        #[arg(long, default_value_t = 2000)]
        rounds: usize,
        /// Pages that the guest dirties before each reset
        #[arg(long, default_value_t = 256)]
        pages: u32,
    },
    /// The checks of a signed envelope on one core: parsing, canonical form, hash, signature
    Signatures {
        /// Envelopes to check
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// Durable nonces and journal entries, beside one flush of the disk
    Stores(stores::Options),
    /// From a relay's envelope to its acknowledgement, without machines
    Accept(accept::Options),
    /// Results that a relay is owed after an outage, without machines
    Deliveries(deliveries::Options),
    /// Boots, tool calls and verified resets of a Linux guest; needs a KVM that runs Linux
    Guest {
        #[command(flatten)]
        image: ImageDir,
        /// Machines to boot
        #[arg(long, default_value_t = 20)]
        boots: usize,
        /// Calls of `echo`
        #[arg(long, default_value_t = 1000)]
        calls: usize,
    },
    /// Pages that commands dirty in a Linux guest; needs a KVM that runs Linux
    Pages {
        #[command(flatten)]
        image: ImageDir,
    },
    /// Whole commands from a relay, in Linux guests, and an idle agent; needs a KVM that runs Linux
    Commands(commands::Options),
}

#[derive(clap::Args)]
struct ImageDir {
    /// Directory with vmlinux, rootfs.ext4 and manifest.json
    #[arg(long, env = "BSM_IMAGE_DIR", default_value = "target/image")]
    image_dir: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let Arguments { json, benchmark } = Arguments::parse();
    let report = match benchmark {
        Benchmark::Boot { image, boots } => {
            let mut report = Report::new("boot");
            boot::measure(&image.image_dir, boots, &mut report)?;
            forks::measure(boots, &mut report)?;
            report
        }
        Benchmark::Resets { output, iterations } => resets::measure(&output, iterations)?,
        Benchmark::Checks { rounds, pages } => checks::measure(rounds, pages)?,
        Benchmark::Signatures { rounds } => signatures::measure(rounds)?,
        Benchmark::Stores(options) => stores::measure(&options)?,
        Benchmark::Accept(options) => accept::measure(&options)?,
        Benchmark::Deliveries(options) => deliveries::measure(&options)?,
        Benchmark::Guest { image, boots, calls } => {
            let mut report = Report::new("guest");
            guest::measure(&image.image_dir, boots, calls, &mut report)?;
            report
        }
        Benchmark::Pages { image } => pages::measure(&image.image_dir)?,
        Benchmark::Commands(options) => commands::measure(&options)?,
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", report.to_text());
    }
    Ok(())
}
