//! Development tasks: builds the guest image, runs tests, demo and benchmarks where guests can run.

mod bench;
mod cargo;
mod check;
mod demo;
mod disk_space;
mod documents;
mod full;
mod fuzz;
mod image;
mod layers;
mod metadata;
mod nested;
mod packages;
mod progress;
mod redteam;
mod run_tests;
mod sanitize;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Development tasks of this workspace
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the guest image: kernel, root file system and manifest
    Image(image::ImageArgs),
    /// Run all tests, those with Linux guests where Linux guests can run
    Test(run_tests::TestArgs),
    /// Check in a few minutes: form, layers, documents, clippy, unit tests of changed crates
    Check(check::CheckArgs),
    /// Run everything that only people start, and print a table
    Full(full::FullArgs),
    /// Show tools at work in real guests
    Demo(demo::DemoArgs),
    /// Run the benchmarks
    Bench(bench::BenchArgs),
    /// Run the fuzz targets
    Fuzz(fuzz::FuzzArgs),
    /// Attack the sandbox, for longer than the tests do
    Redteam(redteam::RedteamArgs),
    /// Run unit tests with AddressSanitizer
    Sanitize(sanitize::SanitizeArgs),
    /// Check that dependencies of crates and modules point one way
    Layers(layers::LayersArgs),
    /// Check links, anchors and console blocks of all documents
    Links,
    /// Run one command in the nested machine
    Nested(nested::NestedArgs),
    /// Run jobs inside the nested machine, which starts this itself
    #[command(hide = true)]
    NestedRunner {
        /// File with the jobs
        jobs: PathBuf,
    },
}

fn main() -> Result<ExitCode> {
    match Cli::parse().task {
        Task::Image(arguments) => image::run(&arguments)?,
        Task::Test(arguments) => run_tests::run(&arguments)?,
        Task::Check(arguments) => check::run(&arguments)?,
        Task::Full(arguments) => full::run(&arguments)?,
        Task::Redteam(arguments) => redteam::run(&arguments)?,
        Task::Demo(arguments) => demo::run(&arguments)?,
        Task::Bench(arguments) => bench::run(&arguments)?,
        Task::Fuzz(arguments) => fuzz::run(&arguments)?,
        Task::Sanitize(arguments) => sanitize::run(&arguments)?,
        Task::Links => documents::check()?,
        Task::Layers(arguments) => layers::run(&arguments)?,
        Task::Nested(arguments) => return nested::run_command(&arguments),
        Task::NestedRunner { jobs } => nested::run_inside(&jobs)?,
    }
    Ok(ExitCode::SUCCESS)
}
