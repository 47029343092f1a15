//! Debian packages the tasks need: installed where we may, named where we may not.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::progress;

/// Makes sure that these packages are installed. Without the right to install, the error names
/// the ones missing and the command that installs them.
pub fn ensure(packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root()? {
        bail!(
            "these Debian packages are missing: {}. Install them with\n    sudo {}",
            missing.join(" "),
            install_command(&missing).join(" ")
        );
    }
    let step = progress::step(format!("Installing {}", missing.join(" ")));
    // Package lists can be absent, as in container images, or older than the archive.
    if apt(&install_command(&missing)).is_err() {
        apt(&["apt-get", "update"]).context("updating the package lists")?;
        apt(&install_command(&missing))?;
    }
    step.done();
    Ok(())
}

/// Version of an installed package.
pub fn version(package: &str) -> Result<String> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Version}", package])
        .stdin(Stdio::null())
        .output()
        .context("starting dpkg-query")?;
    ensure!(output.status.success(), "package {package} is not installed");
    String::from_utf8(output.stdout).context("dpkg-query printed no UTF-8")
}

fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    // Packages unknown to dpkg make it exit with 1 while it lists the others.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"])
        .args(packages)
        .stdin(Stdio::null())
        .output()
        .context("starting dpkg-query: these tasks need Debian or a system made from it")?;
    Ok(not_installed(packages, &String::from_utf8_lossy(&output.stdout)))
}

fn not_installed<'a>(packages: &[&'a str], listing: &str) -> Vec<&'a str> {
    let installed = |package: &str| {
        listing.lines().any(|line| line.split_once(' ') == Some((package, "installed")))
    };
    packages.iter().copied().filter(|package| !installed(package)).collect()
}

fn install_command<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let mut command = vec!["apt-get", "install", "--yes", "--no-install-recommends"];
    command.extend(packages);
    command
}

fn apt(command: &[&str]) -> Result<()> {
    let (program, arguments) = command.split_first().context("no command")?;
    let output = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {program}"))?;
    ensure!(
        output.status.success(),
        "{} failed ({}): {}",
        command.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Whether the effective user is root.
fn is_root() -> Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status").context("reading our own status")?;
    Ok(effective_user(&status) == Some("0"))
}

/// Second number of the `Uid:` line of a status file, proc_pid_status(5).
fn effective_user(status: &str) -> Option<&str> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_fully_installed_count() {
        let listing = "bc installed\nflex config-files\nbinutils installed\n";
        assert_eq!(not_installed(&["bc", "flex", "bison"], listing), ["flex", "bison"]);
        assert!(not_installed(&["binutils"], listing).is_empty());
    }

    #[test]
    fn the_command_to_install_is_complete() {
        assert_eq!(
            install_command(&["bc", "flex"]).join(" "),
            "apt-get install --yes --no-install-recommends bc flex"
        );
    }

    #[test]
    fn root_is_told_by_the_effective_user() {
        assert_eq!(effective_user("Name:\tx\nUid:\t1000\t0\t0\t0\n"), Some("0"));
        assert_eq!(effective_user("Name:\tx\n"), None);
    }
}
