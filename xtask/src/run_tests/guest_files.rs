//! What tests and demonstrations with Linux guests need besides their own program.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cargo::build;
use crate::image::Flavour;

/// Files that programs with Linux guests need.
#[derive(Debug)]
pub struct GuestFiles {
    /// Directory of the guest image.
    pub image: PathBuf,
    /// Directory of the image with the attacks.
    pub attack_image: PathBuf,
    /// The `brainstorm-agent` program.
    pub agent: PathBuf,
}

impl GuestFiles {
    /// Builds the images, unless they are there, and the agent.
    pub fn build(workspace: &Path) -> Result<Self> {
        let (image, attack_image) = images()?;
        Ok(Self { image, attack_image, agent: agent(workspace)? })
    }

    /// The variables by which programs find the files, and those meant for test programs
    /// wherever they run.
    pub fn environment(&self) -> impl Iterator<Item = (String, String)> {
        let passed_on = std::env::vars().filter(|(name, _)| {
            ["BSM_", "PROPTEST_", "RUST_"].iter().any(|prefix| name.starts_with(prefix))
        });
        passed_on.chain([
            ("BSM_IMAGE_DIR".into(), self.image.display().to_string()),
            ("BSM_ATTACK_IMAGE_DIR".into(), self.attack_image.display().to_string()),
            ("BSM_AGENT_BIN".into(), self.agent.display().to_string()),
        ])
    }
}

/// Builds both images, unless they are there: the one that is shipped and the one with the attacks.
pub fn images() -> Result<(PathBuf, PathBuf)> {
    Ok((crate::image::ensure(Flavour::Shipped)?, crate::image::ensure(Flavour::Attack)?))
}

/// Builds the agent as it is shipped, with none of the features that other packages switch on.
pub fn agent(workspace: &Path) -> Result<PathBuf> {
    let built = build(workspace, &["build", "--locked", "--package", "brainstorm-agent"])?;
    let mut found = built.into_iter().filter(|built| built.target == "brainstorm-agent");
    Ok(found.next().context("cargo built no brainstorm-agent")?.path)
}
