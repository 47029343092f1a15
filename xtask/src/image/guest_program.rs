//! Builds the guest program so that its bytes depend on the sources only, not on where they are.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cargo::cargo;
use crate::workspace;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "guest";
/// Separates flags in `CARGO_ENCODED_RUSTFLAGS`.
const FLAG_END: char = '\x1f';

/// A program that runs in guests.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    pub package: &'static str,
    pub name: &'static str,
    pub features: &'static [&'static str],
}

/// PID 1 of every image.
pub const GUEST_INIT: Program = Program { package: "guest", name: "guest-init", features: &[] };
/// PID 1 that can leave out defences: for attacks only.
pub const UNDEFENDED_INIT: Program = Program { features: &["undefended"], ..GUEST_INIT };
/// The attacks.
pub const ATTACK: Program = Program { package: "attack", name: "attack", features: &[] };

/// Builds what is not built yet and returns the program's bytes.
pub fn build(program: Program) -> Result<Vec<u8>> {
    let root = workspace::root()?;
    // Other flags than the other builds': in one directory each would undo the other's work.
    let target = workspace::target_dir()?.join("guest-build");
    let status = Command::new(cargo())
        .args(["build", "--locked", "--quiet", "--package", program.package, "--bin", program.name])
        .args(["--features", &program.features.join(",")])
        .args(["--profile", PROFILE, "--target", TARGET, "--target-dir"])
        .arg(&target)
        .current_dir(&root)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&root)?)
        .stdin(Stdio::null())
        // Results of this task go to standard output.
        .stdout(Stdio::null())
        .status()
        .context("starting cargo")?;
    ensure!(status.success(), "cargo could not build {}", program.name);
    let path = target.join(TARGET).join(PROFILE).join(program.name);
    fs::read(&path).with_context(|| format!("reading {}", path.display()))
}

/// Static, and without the names of this machine's directories.
fn flags(root: &Path) -> Result<OsString> {
    let mut flags = OsString::from("-Ctarget-feature=+crt-static");
    for (from, to) in [(root.to_owned(), "/bsm"), (cargo_home()?, "/cargo")] {
        flags.push(format!("{FLAG_END}--remap-path-prefix="));
        flags.push(from);
        flags.push(format!("={to}"));
    }
    Ok(flags)
}

fn cargo_home() -> Result<PathBuf> {
    let directory = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    directory("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| directory("HOME").map(|home| Path::new(&home).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_static_and_hide_the_checkout() {
        let flags = flags(Path::new("/home/me/checkout")).unwrap();
        let flags: Vec<&str> = flags.to_str().unwrap().split(FLAG_END).collect();
        assert_eq!(flags[0], "-Ctarget-feature=+crt-static");
        assert_eq!(flags[1], "--remap-path-prefix=/home/me/checkout=/bsm");
        assert!(flags[2].ends_with("=/cargo"));
    }
}
