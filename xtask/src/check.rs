//! `cargo xtask check`: what takes less than three minutes when everything is built, for the hand.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::cargo;
use crate::metadata::{self, Package};

/// Arguments of `cargo xtask check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Run the unit tests of every crate, not only of those that differ from this branch or commit
    #[arg(long)]
    all: bool,
    /// What changes are counted from
    #[arg(long, default_value = "main", value_name = "COMMIT")]
    since: String,
}

/// Checks form, layers, documents, clippy's opinion and unit tests. Stops at the first failure.
pub fn run(arguments: &CheckArgs) -> Result<()> {
    let workspace = crate::workspace::root()?;
    let packages = metadata::read(&workspace)?.packages;
    let changed = if arguments.all {
        packages.iter().map(|package| package.name.clone()).collect()
    } else {
        let files = changed_files(&workspace, &arguments.since)?;
        changed_packages(&workspace, &packages, &files)
    };
    step("form", || cargo_with(&workspace, &["fmt", "--all", "--check"]))?;
    step("layers", || crate::layers::run(&crate::layers::LayersArgs::default()))?;
    step("documents", crate::documents::check)?;
    step("clippy", || {
        let arguments = ["clippy", "--locked", "--quiet", "--workspace", "--all-targets"];
        cargo_with(&workspace, &[&arguments[..], &["--", "-D", "warnings"]].concat())
    })?;
    if changed.is_empty() {
        eprintln!("No crate differs from {}: no unit test runs.", arguments.since);
        return Ok(());
    }
    let names: Vec<&str> = changed.iter().map(String::as_str).collect();
    step(&format!("unit tests of {}", names.join(", ")), || {
        let mut arguments = vec!["test", "--locked", "--quiet", "--lib", "--bins"];
        for name in &names {
            arguments.extend(["--package", name]);
        }
        cargo_with(&workspace, &arguments)
    })
}

fn step(what: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    let result = run().with_context(|| format!("{what} failed"));
    eprintln!("{:>6.1} s  {what}", begun.elapsed().as_secs_f64());
    result
}

fn cargo_with(workspace: &Path, arguments: &[&str]) -> Result<()> {
    let status = Command::new(cargo())
        .args(arguments)
        .current_dir(workspace)
        .stdin(Stdio::null())
        .status()
        .context("starting cargo")?;
    ensure!(status.success(), "cargo {}: {status}", arguments.join(" "));
    Ok(())
}

/// Files that differ from what this branch and `since` have in common, committed or not.
fn changed_files(workspace: &Path, since: &str) -> Result<Vec<PathBuf>> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(workspace)
            .stdin(Stdio::null())
            .output()
            .context("starting git")?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            bail!(
                "git {}: {}; name another commit with --since, or use --all",
                arguments.join(" "),
                complaint.trim()
            );
        }
        String::from_utf8(output.stdout).context("git printed no UTF-8")
    };
    let base = git(&["merge-base", "HEAD", since])?;
    let tracked = git(&["diff", "--name-only", base.trim()])?;
    let new = git(&["ls-files", "--others", "--exclude-standard"])?;
    Ok(tracked.lines().chain(new.lines()).map(PathBuf::from).collect())
}

/// The packages in whose directories the files lie, the innermost each. What lies in none, such as
/// the workspace's own manifest, may change every package.
fn changed_packages(workspace: &Path, packages: &[Package], files: &[PathBuf]) -> BTreeSet<String> {
    let mut changed = BTreeSet::new();
    for file in files {
        let owner = packages
            .iter()
            .filter_map(|package| {
                let directory = package.manifest_path.parent()?.strip_prefix(workspace).ok()?;
                file.starts_with(directory).then_some((directory.components().count(), package))
            })
            .max_by_key(|(depth, _)| *depth);
        match owner {
            Some((_, package)) => {
                changed.insert(package.name.clone());
            }
            None if matters_to_all(file) => {
                return packages.iter().map(|package| package.name.clone()).collect();
            }
            None => {}
        }
    }
    changed
}

fn matters_to_all(file: &Path) -> bool {
    file == Path::new("Cargo.toml") || file == Path::new("Cargo.lock") || file.starts_with(".cargo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_belongs_to_the_innermost_package() {
        let package = |name: &str, manifest: &str| Package {
            name: name.into(),
            manifest_path: manifest.into(),
            dependencies: vec![],
            targets: vec![],
            features: [].into(),
        };
        let packages = [
            package("agent", "/w/agent/Cargo.toml"),
            package("protocol", "/w/agent/protocol/Cargo.toml"),
        ];
        let changed = |files: &[&str]| {
            let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
            Vec::from_iter(changed_packages(Path::new("/w"), &packages, &files))
        };
        assert_eq!(changed(&["agent/src/lib.rs"]), ["agent"]);
        assert_eq!(changed(&["agent/protocol/src/lib.rs"]), ["protocol"]);
        assert_eq!(changed(&["README.md"]), [""; 0]);
        assert_eq!(changed(&["Cargo.lock"]).len(), 2);
    }
}
