//! The packages of the workspace, from `cargo metadata`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::cargo::cargo;

/// What `cargo metadata` says, as far as it is needed here.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    pub packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
pub struct Package {
    pub name: String,
    pub manifest_path: PathBuf,
    pub dependencies: Vec<Dependency>,
    pub targets: Vec<Target>,
    /// Features with what each switches on.
    pub features: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Deserialize)]
pub struct Dependency {
    pub name: String,
    /// `dev`, `build`, or nothing for one of the program itself.
    pub kind: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Target {
    pub kind: Vec<String>,
    pub src_path: PathBuf,
}

impl Target {
    /// Whether it is a library or a program, rather than a test or an example.
    pub fn is_product(&self) -> bool {
        self.kind.iter().any(|kind| kind == "lib" || kind == "bin")
    }
}

/// Asks cargo.
pub fn read(workspace: &Path) -> Result<Metadata> {
    let output = Command::new(cargo())
        .args(["metadata", "--no-deps", "--locked", "--format-version=1"])
        .current_dir(workspace)
        .output()
        .context("starting cargo")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo metadata failed: {}", complaint.trim());
    serde_json::from_slice(&output.stdout).context("cargo's metadata is not understood")
}
