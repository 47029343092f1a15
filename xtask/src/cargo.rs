//! Asks cargo to build something and where it put the executables.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// One executable cargo built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    /// Name of the package it belongs to.
    pub package: String,
    /// Directory of the package's manifest, where cargo runs tests.
    pub package_directory: PathBuf,
    /// Name of the target.
    pub target: String,
    /// Kind of the target: `lib`, `bin`, `test`, ...
    pub kind: String,
    /// Whether it is a test program.
    pub is_test: bool,
    pub path: PathBuf,
}

/// Runs `cargo` with these arguments in `workspace` and returns the executables it names.
/// Diagnostics go to the terminal as usual.
pub fn build(workspace: &Path, arguments: &[&str]) -> Result<Vec<Executable>> {
    build_with(workspace, arguments, &[])
}

/// [`build`] with these variables in cargo's environment.
pub fn build_with(
    workspace: &Path,
    arguments: &[&str],
    environment: &[(&str, &OsStr)],
) -> Result<Vec<Executable>> {
    let output = Command::new(cargo())
        .args(arguments)
        .envs(environment.iter().copied())
        .arg("--message-format=json-render-diagnostics")
        .current_dir(workspace)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    ensure!(output.status.success(), "cargo {} failed", arguments.join(" "));
    parse(&String::from_utf8(output.stdout).context("cargo printed no UTF-8")?)
}

/// The cargo that runs this program, else the one in the path.
pub fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

/// Cargo's messages: "External tools" of the cargo book.
#[derive(Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum CargoMessage {
    CompilerArtifact(Artifact),
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Artifact {
    package_id: String,
    manifest_path: PathBuf,
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

fn parse(messages: &str) -> Result<Vec<Executable>> {
    let mut executables = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message = serde_json::from_str(line).context("cargo's message is not understood")?;
        let CargoMessage::CompilerArtifact(artifact) = message else { continue };
        let Some(path) = artifact.executable else { continue };
        let directory = artifact.manifest_path.parent().unwrap_or(Path::new("/"));
        executables.push(Executable {
            package: package_name(&artifact.package_id).to_owned(),
            package_directory: directory.to_owned(),
            target: artifact.target.name,
            kind: artifact.target.kind.into_iter().next().unwrap_or_default(),
            is_test: artifact.profile.test,
            path,
        });
    }
    Ok(executables)
}

/// The name in a package id: `...#name@version`, or `.../name#version` where they are the same.
fn package_name(id: &str) -> &str {
    let (source, fragment) = id.rsplit_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name,
        None => source.rsplit('/').next().unwrap_or(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_among_other_messages() {
        let messages = r#"{"reason":"compiler-artifact","package_id":"path+file:///w/vmm#0.1.0","manifest_path":"/w/vmm/Cargo.toml","target":{"kind":["lib"],"name":"vmm"},"profile":{"test":false},"executable":null}
{"reason":"build-script-executed","package_id":"x"}
{"reason":"compiler-artifact","package_id":"path+file:///w/tests#integration-tests@0.1.0","manifest_path":"/w/tests/Cargo.toml","target":{"kind":["test"],"name":"linux_boot"},"profile":{"test":true},"executable":"/w/target/linux_boot-1"}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(
            parse(messages).unwrap(),
            [Executable {
                package: "integration-tests".into(),
                package_directory: "/w/tests".into(),
                target: "linux_boot".into(),
                kind: "test".into(),
                is_test: true,
                path: "/w/target/linux_boot-1".into(),
            }]
        );
    }

    #[test]
    fn both_forms_of_package_ids_are_understood() {
        assert_eq!(package_name("path+file:///w/vmm#0.1.0"), "vmm");
        assert_eq!(
            package_name("path+file:///w/tests#integration-tests@0.1.0"),
            "integration-tests"
        );
    }
}
