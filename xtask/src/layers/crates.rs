//! The crates of the workspace and their dependencies on each other, from `cargo metadata`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::table::{Rows, row_of};
use crate::run_tests::cargo;

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
pub fn metadata(workspace: &Path) -> Result<Metadata> {
    let output = Command::new(cargo())
        .args(["metadata", "--no-deps", "--locked", "--format-version=1"])
        .current_dir(workspace)
        .output()
        .context("starting cargo")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo metadata failed: {}", complaint.trim());
    serde_json::from_slice(&output.stdout).context("cargo's metadata is not understood")
}

/// Dependencies that do not point to a lower row. Those of tests count too: what tests of a lower
/// crate need of a higher one belongs to a crate of tests above both.
pub fn upward(packages: &[Package], rows: &Rows) -> Vec<String> {
    let mut findings = Vec::new();
    for package in packages {
        for dependency in &package.dependencies {
            let known = packages.iter().any(|other| other.name == dependency.name);
            let (Some(from), Some(to)) =
                (row_of(rows, &package.name), row_of(rows, &dependency.name))
            else {
                continue;
            };
            if known && from >= to && package.name != dependency.name {
                let kind =
                    dependency.kind.as_deref().map(|k| format!(" ({k})")).unwrap_or_default();
                findings.push(format!(
                    "{}: crate {} depends on {}{kind}, which does not stand below it",
                    package.manifest_path.display(),
                    package.name,
                    dependency.name
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, on: &[&str]) -> Package {
        let dependency = |name: &&str| Dependency { name: (*name).into(), kind: None };
        Package {
            name: name.into(),
            manifest_path: format!("/w/{name}/Cargo.toml").into(),
            dependencies: on.iter().map(dependency).collect(),
            targets: Vec::new(),
        }
    }

    #[test]
    fn a_dependency_up_is_found() {
        let rows = vec![vec!["agent".to_owned()], vec!["vmm".to_owned(), "guest".to_owned()]];
        let down = [package("agent", &["vmm", "guest", "serde"]), package("vmm", &["serde"])];
        assert!(upward(&down, &rows).is_empty());
        let up = [package("agent", &["vmm"]), package("vmm", &["agent"])];
        assert!(upward(&up, &rows)[0].contains("crate vmm depends on agent"));
        let beside = [package("guest", &[]), package("vmm", &["guest"])];
        assert_eq!(upward(&beside, &rows).len(), 1);
    }
}
