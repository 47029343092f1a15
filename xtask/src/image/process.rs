//! Runs the programs an image is built with; their complaints become the error.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Lines of a log that an error shows.
const SHOWN_LINES: usize = 20;

/// What a program printed.
#[derive(Debug)]
pub struct Printed {
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program to its successful end.
pub fn run(command: &mut Command) -> Result<Printed> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("starting {name}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{name} failed ({}): {}", output.status, stderr.trim());
    let stdout =
        String::from_utf8(output.stdout).with_context(|| format!("{name} printed no UTF-8"))?;
    Ok(Printed { stdout, stderr })
}

/// Runs a program that prints a lot, all of it into `log`. The error shows the end of it.
pub fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let open = || -> std::io::Result<(File, File)> {
        let file = File::options().create(true).append(true).open(log)?;
        Ok((file.try_clone()?, file))
    };
    let (out, err) = open().with_context(|| format!("opening {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .status()
        .with_context(|| format!("starting {name}"))?;
    ensure!(
        status.success(),
        "{name} failed ({status}); the end of {}:\n{}",
        log.display(),
        last_lines(&fs::read(log).unwrap_or_default())
    );
    Ok(())
}

fn last_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_come_with_words() {
        let error = run(Command::new("sh").args(["-c", "echo why >&2; exit 2"])).unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let script = "seq 1 100; exit 1";
        let error = run_logged(Command::new("sh").args(["-c", script]), &log).unwrap_err();
        assert!(error.to_string().ends_with("\n99\n100"), "{error}");
        assert!(!error.to_string().contains("\n80\n"), "{error}");
    }
}
