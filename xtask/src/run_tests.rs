//! Runs all tests, each where it can run: tests that boot Linux guests need a KVM that runs Linux,
//! which not every host has; everything else runs on any host.

mod executables;
mod group;
mod tally;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

pub use self::executables::{Executable, build, build_with, cargo};
pub use self::group::Report;
pub use self::tally::Tally;
use crate::image::Flavour;
use crate::nested::job::Job;
use crate::nested::{Choice, On, Place, TO_TEST};

/// Test programs of this package whose names start with the prefix boot Linux guests.
const GUEST_TEST_PACKAGE: &str = "integration-tests";
const GUEST_TEST_PREFIX: &str = "linux_";

/// Arguments of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub struct TestArgs {
    /// Run only the tests that boot Linux guests
    #[arg(long, conflicts_with = "host_only")]
    linux_only: bool,
    /// Run only the tests that boot no Linux guest
    #[arg(long)]
    host_only: bool,
    /// Where Linux guests run, instead of where a probe of KVM says
    #[arg(long, value_enum, env = "BSM_RUN_ON")]
    on: Option<On>,
    /// Minutes after which a nested machine is ended
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Run only tests whose names contain this
    filter: Option<String>,
}

/// Seconds after which a test program that runs here is ended: the longest takes two minutes.
const HOST_LIMIT: u32 = 900;

/// Runs the tests. An error means that something failed or that guest tests ran nowhere.
pub fn run(arguments: &TestArgs) -> Result<()> {
    let workspace = crate::workspace::root()?;
    crate::room::warn_if_short();
    // One test asks `file` how the agent is linked.
    crate::packages::ensure(&["file"])?;
    let guest_files = GuestFiles::build(&workspace)?;
    let executables = build(&workspace, &["test", "--workspace", "--no-run"])?;
    let (guest_tests, host_tests): (Vec<_>, Vec<_>) =
        executables.into_iter().filter(|e| e.is_test).partition(boots_linux);

    let limit = Duration::from_secs(60 * arguments.limit);
    let filter = arguments.filter.as_deref();
    let mut reports = Vec::new();
    if !arguments.linux_only {
        let choice = Choice::for_host_tests();
        let jobs = jobs(&host_tests, &guest_files, filter, choice.on);
        reports.push(run_group("host tests", &choice, limit, &jobs)?);
        // These need a compiler, but no KVM.
        let jobs = [doc_tests(&workspace, &guest_files, filter)];
        reports.push(group::run("doc tests", &Place::Native, &jobs));
        if filter.is_none() {
            reports.push(crate::fuzz::among_tests());
        }
    }
    if !arguments.host_only {
        let choice = Choice::make(arguments.on);
        let jobs = jobs(&guest_tests, &guest_files, filter, choice.on);
        reports.push(run_group("Linux-guest tests", &choice, limit, &jobs)?);
    }
    eprint!("\n{}", summary(&reports));
    verdict(&reports, arguments.filter.is_some())
}

/// Says where and why before it runs the jobs there.
fn run_group(name: &'static str, choice: &Choice, limit: Duration, jobs: &[Job]) -> Result<Report> {
    let place = Place::prepare(choice.on, limit, TO_TEST)?;
    eprintln!("\nThe {name} run {}: {}.", place.describe(), choice.reason);
    Ok(match choice.on {
        On::Native => group::run(name, &place, jobs),
        On::Nested => group::run_in_emulator(name, &place, jobs),
    })
}

/// What tests and demonstrations with Linux guests need besides their own program.
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
    /// Builds the image, unless it is there, and the agent.
    pub fn build(workspace: &Path) -> Result<Self> {
        let image = crate::image::ensure(Flavour::Shipped)?;
        let attack_image = crate::image::ensure(Flavour::Attack)?;
        let agent = build(workspace, &["build", "--package", "brainstorm-agent"])?
            .into_iter()
            .find(|executable| executable.target == "brainstorm-agent")
            .context("cargo built no brainstorm-agent")?
            .path;
        Ok(Self { image, attack_image, agent })
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

fn boots_linux(test: &Executable) -> bool {
    test.package == GUEST_TEST_PACKAGE
        && test.kind == "test"
        && test.target.starts_with(GUEST_TEST_PREFIX)
}

fn jobs(tests: &[Executable], files: &GuestFiles, filter: Option<&str>, on: On) -> Vec<Job> {
    // Few emulated processors: guests in parallel would only slow each other down.
    let threads = (on == On::Nested).then_some("--test-threads=1");
    tests
        .iter()
        .map(|test| {
            let directory = test.package_directory.display().to_string();
            // The nested machine has limits of its own.
            let mut argv = match on {
                On::Native => limited(HOST_LIMIT),
                On::Nested => Vec::new(),
            };
            argv.push(test.path.display().to_string());
            argv.extend(filter.into_iter().chain(threads).map(str::to_owned));
            Job {
                label: format!("{} of {} ({})", test.target, test.package, test.kind),
                argv,
                directory: test.package_directory.clone(),
                // As cargo sets them.
                environment: files
                    .environment()
                    .chain([
                        ("CARGO_MANIFEST_PATH".into(), format!("{directory}/Cargo.toml")),
                        ("CARGO_MANIFEST_DIR".into(), directory),
                        ("CARGO_PKG_NAME".into(), test.package.clone()),
                    ])
                    .collect(),
            }
        })
        .collect()
}

/// Ends a program and its children where it hangs. The status is 124 then, timeout(1).
fn limited(seconds: u32) -> Vec<String> {
    vec!["timeout".to_owned(), "--kill-after=10".to_owned(), seconds.to_string()]
}

fn doc_tests(workspace: &Path, files: &GuestFiles, filter: Option<&str>) -> Job {
    let mut argv = vec![cargo()];
    argv.extend(["test", "--doc", "--workspace", "--quiet", "--"].map(str::to_owned));
    argv.extend(filter.map(str::to_owned));
    Job {
        label: "documentation's examples".into(),
        argv,
        directory: workspace.to_owned(),
        environment: files.environment().collect(),
    }
}

/// Writing to a string cannot fail, so results of that are ignored.
fn summary(reports: &[Report]) -> String {
    let mut text = format!(
        "{:<18} {:<15} {:>7} {:>7} {:>7} {:>9}\n",
        "group", "where", "passed", "failed", "ignored", "duration"
    );
    for report in reports {
        let _ = writeln!(
            text,
            "{:<18} {:<15} {:>7} {:>7} {:>7} {:>7.1} s",
            report.name,
            report.place,
            report.tally.passed,
            report.tally.failed,
            report.tally.ignored,
            report.took.as_secs_f64()
        );
    }
    for repeated in reports.iter().flat_map(|report| &report.repeats) {
        let _ = writeln!(text, "REPEATED {repeated}");
    }
    for trouble in reports.iter().flat_map(|report| &report.troubles) {
        let _ = writeln!(text, "FAILED {trouble}");
    }
    text
}

/// A guest test that ran nowhere is a failure; with a filter, some test must have run.
fn verdict(reports: &[Report], filtered: bool) -> Result<()> {
    let failed: Vec<&str> =
        reports.iter().filter(|report| !report.is_success()).map(|report| report.name).collect();
    if !failed.is_empty() {
        bail!("failures among the {}", failed.join(" and the "));
    }
    let executed = |report: &Report| report.tally.executed();
    if filtered {
        ensure!(reports.iter().map(executed).sum::<u64>() > 0, "the filter matches no test");
    } else {
        for report in reports {
            ensure!(executed(report) > 0, "none of the {} ran anywhere", report.name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUESTS: &str = "Linux-guest tests";

    fn report(name: &'static str, passed: u64, failed: u64) -> Report {
        Report {
            name,
            place: "here",
            tally: Tally { passed, failed, ignored: 0 },
            took: Duration::from_millis(1500),
            troubles: Vec::new(),
            repeats: Vec::new(),
            failed: Vec::new(),
        }
    }

    fn executable(package: &str, target: &str, kind: &str) -> Executable {
        Executable {
            package: package.into(),
            package_directory: "/w".into(),
            target: target.into(),
            kind: kind.into(),
            is_test: true,
            path: "/w/target/x".into(),
        }
    }

    #[test]
    fn guest_tests_are_known_by_their_names() {
        assert!(boots_linux(&executable("integration-tests", "linux_boot", "test")));
        assert!(!boots_linux(&executable("integration-tests", "protocol", "test")));
        assert!(!boots_linux(&executable("vmm", "linux_boot", "test")));
        assert!(!boots_linux(&executable("integration-tests", "linux_boot", "lib")));
    }

    #[test]
    fn guest_tests_that_ran_nowhere_are_a_failure() {
        let reports = [report("host tests", 9, 0), report(GUESTS, 0, 0)];
        let error = verdict(&reports, false).unwrap_err();
        assert!(error.to_string().contains("Linux-guest tests ran anywhere"), "{error}");
        assert!(verdict(&reports, true).is_ok());
    }

    #[test]
    fn failures_and_troubles_fail() {
        assert!(verdict(&[report("host tests", 9, 1)], false).is_err());
        let mut hung = report(GUESTS, 3, 0);
        hung.troubles.push("the nested machine passed its limit".into());
        assert!(summary(std::slice::from_ref(&hung)).contains("FAILED the nested machine"));
        assert!(verdict(&[hung], false).is_err());
        assert!(verdict(&[report(GUESTS, 3, 0)], false).is_ok());
    }

    #[test]
    fn a_test_program_that_hangs_is_ended_and_named() {
        let mut argv = limited(1);
        argv.extend(["/bin/sh", "-c", "echo running 1 test; sleep 1000"].map(str::to_owned));
        let hangs = Job {
            label: "the one that hangs".into(),
            argv,
            directory: "/".into(),
            environment: std::collections::BTreeMap::new(),
        };
        let report = group::run("host tests", &Place::Native, &[hangs]);
        assert!(!report.is_success());
        let text = summary(&[report]);
        assert!(text.contains("the one that hangs") && text.contains("124"), "{text}");
    }

    #[test]
    fn a_filter_that_matches_nothing_is_a_failure() {
        assert!(verdict(&[report("host tests", 0, 0), report(GUESTS, 0, 0)], true).is_err());
    }
}
