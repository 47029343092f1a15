//! `cargo xtask full`: everything that only people start, one part after the other, and a table of
//! what came of it. A part whose tools are not installed has not run, which is not a pass; cargo-deny and
//! cargo-semver-checks are installed for it, under `target/tools`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cargo::cargo;

/// The target of the build that does not use glibc.
const MUSL: &str = "x86_64-unknown-linux-musl";
/// What checks licences and sources. Building it takes long, so that `.ci/run` only uses one that is there.
const DENY: &str = "cargo-deny@0.20.2";
/// What compares public interfaces.
const SEMVER_CHECKS: &str = "cargo-semver-checks@0.51.0";
/// Where tools are installed, in the workspace.
const TOOLS: &str = "target/tools";
/// Packages whose public interface others may use.
const LIBRARIES: [&str; 1] = ["vmm"];
/// The commit whose interface programs outside of this workspace may rely on. It moves when the interface is
/// broken on purpose, with a line in CHANGELOG.md.
const BASELINE: &str = "2de751ef4ec3ccbc8bb23baf1cb23c5b62e3c097";

/// Arguments of `cargo xtask full`.
#[derive(Debug, clap::Args)]
pub struct FullArgs {
    /// Commit with which the public interface of the libraries is compared
    #[arg(long, value_name = "COMMIT", default_value = BASELINE)]
    baseline: String,
    /// Seconds for which each fuzz target runs
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    fuzz_seconds: u64,
    /// Run only these parts
    parts: Vec<String>,
}

/// What came of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PartOutcome {
    Passed,
    Failed(String),
    /// The text names what is missing.
    NotRun(String),
}

/// One part, and what it needs.
struct Part {
    name: &'static str,
    /// Says what is missing; nothing where the part can run.
    missing: Option<String>,
    /// The package that cargo installs where something is missing.
    installs: Option<&'static str>,
    /// Set for the program.
    environment: &'static [(&'static str, &'static str)],
    program: PathBuf,
    arguments: Vec<String>,
}

/// Runs the parts. An error means that one failed.
pub fn run(arguments: &FullArgs) -> Result<()> {
    let workspace = crate::workspace::root()?;
    let parts = parts(arguments)?;
    for name in &arguments.parts {
        let known: Vec<&str> = parts.iter().map(|part| part.name).collect();
        ensure!(known.contains(&name.as_str()), "there is no part {name}: {}", known.join(", "));
    }
    let wanted =
        |part: &&Part| arguments.parts.is_empty() || arguments.parts.iter().any(|n| n == part.name);
    let mut rows = Vec::new();
    for part in parts.iter().filter(wanted) {
        eprintln!("\n     Part {}", part.name);
        let begun = Instant::now();
        let outcome = part.run(&workspace);
        rows.push((part.name, outcome, begun.elapsed()));
    }
    eprint!("\n{}", table(&rows));
    let failed = rows.iter().filter(|(_, outcome, _)| matches!(outcome, PartOutcome::Failed(_)));
    let failed: Vec<&str> = failed.map(|(name, ..)| *name).collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn parts(arguments: &FullArgs) -> Result<Vec<Part>> {
    let this = std::env::current_exe().context("finding this program")?;
    let own = |name, words: &[&str]| Part {
        name,
        missing: None,
        installs: None,
        environment: &[],
        program: this.clone(),
        arguments: words.iter().map(|&word| word.to_owned()).collect(),
    };
    let with_cargo = |name, missing, words: &[&str]| Part {
        name,
        missing,
        installs: None,
        environment: &[],
        program: cargo().into(),
        arguments: words.iter().map(|&word| word.to_owned()).collect(),
    };
    let mut interface = vec!["semver-checks", "--baseline-rev", &arguments.baseline];
    for library in LIBRARIES {
        interface.extend(["--package", library]);
    }
    Ok(vec![
        Part {
            installs: Some(DENY),
            ..with_cargo(
                "licences",
                missing_subcommand("deny"),
                &["deny", "check", "bans", "licenses", "sources"],
            )
        },
        Part {
            installs: Some(SEMVER_CHECKS),
            // It asks for the flags of this workspace's target, which are not those of procedural macros.
            environment: &[("RUSTFLAGS", "")],
            ..with_cargo("interface", missing_subcommand("semver-checks"), &interface)
        },
        with_cargo(
            "musl",
            missing_for_musl(),
            &["build", "--locked", "--package", "brainstorm-agent", "--target", MUSL],
        ),
        own("sanitize", &["sanitize"]),
        own("fuzz", &["fuzz", "--seconds", &arguments.fuzz_seconds.to_string()]),
        own("redteam", &["redteam"]),
        own("benches", &["bench", "--json"]),
    ])
}

impl Part {
    fn run(&self, workspace: &Path) -> PartOutcome {
        let tools = workspace.join(TOOLS);
        if let Some(missing) = &self.missing {
            let Some(package) = self.installs else { return PartOutcome::NotRun(missing.clone()) };
            if !install(package, &tools) {
                return PartOutcome::NotRun(format!("{missing}, and cargo could not install it"));
            }
        }
        let status = Command::new(&self.program)
            .args(&self.arguments)
            .env("PATH", path_with(&tools.join("bin")))
            .envs(self.environment.iter().copied())
            .current_dir(workspace)
            .stdin(Stdio::null())
            .status();
        match status {
            Ok(status) if status.success() => PartOutcome::Passed,
            Ok(status) => PartOutcome::Failed(status.to_string()),
            Err(e) => PartOutcome::Failed(format!("starting {}: {e}", self.program.display())),
        }
    }
}

/// Installs a package as cargo does, which does nothing when it is there already. Without optimization: they
/// run for seconds, and would build for many minutes.
fn install(package: &str, root: &Path) -> bool {
    let mut command = Command::new(cargo());
    command.args(["install", "--locked", "--debug", "--root"]).arg(root).arg(package);
    command.stdin(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// The search path with `first` before all others.
fn path_with(first: &Path) -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(first.to_owned()).chain(std::env::split_paths(&path));
    // A directory with a colon in its name cannot be in a search path.
    std::env::join_paths(all).unwrap_or(path)
}

fn missing_subcommand(name: &str) -> Option<String> {
    let found = succeeds(Command::new(cargo()).args([name, "--version"]));
    (!found).then(|| format!("cargo-{name} is not installed"))
}

fn missing_for_musl() -> Option<String> {
    let directory = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", MUSL])
        .stdin(Stdio::null())
        .output();
    let has_target = directory.is_ok_and(|output| {
        let path = String::from_utf8_lossy(&output.stdout);
        output.status.success() && Path::new(path.trim()).is_dir()
    });
    if !has_target {
        return Some(format!("Rust's target {MUSL} is not installed"));
    }
    (!succeeds(Command::new("musl-gcc").arg("--version")))
        .then(|| "musl-gcc of package musl-tools is not installed".to_owned())
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Writing to a string cannot fail, so results of that are ignored.
fn table(rows: &[(&str, PartOutcome, Duration)]) -> String {
    let mut text = format!("{:<12} {:>9}  result\n", "part", "duration");
    for (name, outcome, took) in rows {
        let result = match outcome {
            PartOutcome::Passed => "passed".to_owned(),
            PartOutcome::Failed(why) => format!("FAILED: {why}"),
            PartOutcome::NotRun(why) => format!("not run: {why}"),
        };
        let _ = writeln!(text, "{name:<12} {:>7.1} s  {result}", took.as_secs_f64());
    }
    let count =
        |wanted: fn(&PartOutcome) -> bool| rows.iter().filter(|(_, o, _)| wanted(o)).count();
    let _ = writeln!(
        text,
        "{} passed, {} failed, {} not run",
        count(|o| *o == PartOutcome::Passed),
        count(|o| matches!(o, PartOutcome::Failed(_))),
        count(|o| matches!(o, PartOutcome::NotRun(_)))
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(program: &str, missing: Option<&str>) -> Part {
        Part {
            name: "some",
            missing: missing.map(str::to_owned),
            installs: None,
            environment: &[],
            program: program.into(),
            arguments: Vec::new(),
        }
    }

    #[test]
    fn what_is_not_installed_has_not_run() {
        let outcome = part("true", Some("cargo-deny is not installed")).run(Path::new("/"));
        assert_eq!(outcome, PartOutcome::NotRun("cargo-deny is not installed".into()));
        let missing = missing_subcommand("certainly-not-there").unwrap();
        assert_eq!(missing, "cargo-certainly-not-there is not installed");
    }

    #[test]
    fn what_cannot_be_installed_has_not_run() {
        let directory = std::env::temp_dir().join("full-installs-nothing");
        // No package has such a name, so that cargo asks no registry.
        let part = Part { installs: Some("not/a/package"), ..part("true", Some("x is missing")) };
        let PartOutcome::NotRun(why) = part.run(&directory) else { panic!("it ran") };
        assert_eq!(why, "x is missing, and cargo could not install it");
        let path = path_with(Path::new("/first"));
        assert_eq!(std::env::split_paths(&path).next(), Some("/first".into()));
    }

    #[test]
    fn the_table_counts_each_kind() {
        let rows = [
            ("one", part("true", None).run(Path::new("/")), Duration::ZERO),
            ("two", part("false", None).run(Path::new("/")), Duration::ZERO),
            ("three", part("/no/such/program", None).run(Path::new("/")), Duration::ZERO),
            ("four", PartOutcome::NotRun("x is not installed".into()), Duration::ZERO),
        ];
        let text = table(&rows);
        assert!(text.contains("1 passed, 2 failed, 1 not run"), "{text}");
        assert!(text.contains("not run: x is not installed"), "{text}");
    }
}
