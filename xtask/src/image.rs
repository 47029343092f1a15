//! The guest image: kernel, root file system and manifest.

mod digest;
mod ext4;
mod kernel;
mod kernel_config;
mod process;
mod source;
mod tree;

use std::path::PathBuf;

use anyhow::{Result, bail};

/// Arguments of `cargo xtask image`.
#[derive(Debug, clap::Args)]
pub struct ImageArgs {}

/// Builds the image and prints where it is.
pub fn run(_: &ImageArgs) -> Result<()> {
    println!("{}", ensure()?.display());
    Ok(())
}

/// Builds the image unless it is there already and returns its directory.
pub fn ensure() -> Result<PathBuf> {
    bail!("not built yet: {}", crate::workspace::image_dir()?.display())
}
