//! The guest image: kernel, root file system and manifest.
//!
//! What is built depends on content only: a digest over all inputs says whether an image is
//! current, and the same inputs give the same bytes again.

mod build;
mod digest;
mod ext4;
mod flavour;
mod guest_program;
mod kernel;
mod kernel_config;
mod pack;
mod process;
mod rootfs;
mod source;
mod tree;

use std::path::PathBuf;

use anyhow::{Context, Result};

use self::build::{Outcome, bring_up_to_date};
use crate::workspace;
pub use flavour::Flavour;

/// Arguments of `cargo xtask image`.
#[derive(Debug, clap::Args)]
pub struct ImageArgs {
    /// Build everything again, the kernel too
    #[arg(long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// What the image is for
    #[arg(long, value_enum, default_value_t = Flavour::Shipped)]
    flavour: Flavour,
    /// Directory for the image [default: `image` or `image-attack` in cargo's build directory]
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
}

/// Brings the image up to date and prints what it consists of.
pub fn run(arguments: &ImageArgs) -> Result<()> {
    let directory = match &arguments.out {
        Some(path) => std::path::absolute(path).context("--out names no directory")?,
        None => directory(arguments.flavour)?,
    };
    let outcome = bring_up_to_date(&directory, arguments.flavour, arguments.force)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&as_json(&outcome))?);
        return Ok(());
    }
    let state = if outcome.changed { "built" } else { "unchanged" };
    println!("Image in {}: {state}", outcome.directory.display());
    for (name, artifact) in &outcome.manifest.artifacts {
        println!("  {name:<12} {:>9} bytes  {}", artifact.bytes, artifact.sha256);
    }
    for (name, version) in &outcome.manifest.versions {
        println!("  {name:<12} {version}");
    }
    Ok(())
}

/// Brings an image up to date and returns its directory.
pub fn ensure(flavour: Flavour) -> Result<PathBuf> {
    Ok(bring_up_to_date(&directory(flavour)?, flavour, false)?.directory)
}

fn directory(flavour: Flavour) -> Result<PathBuf> {
    Ok(workspace::target_dir()?.join(flavour.directory()))
}

fn as_json(outcome: &Outcome) -> serde_json::Value {
    serde_json::json!({
        "directory": outcome.directory,
        "changed": outcome.changed,
        "input_digest": outcome.manifest.input_digest,
        "artifacts": outcome.manifest.artifacts,
        "versions": outcome.manifest.versions,
    })
}
