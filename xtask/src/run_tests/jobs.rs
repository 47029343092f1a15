//! Test programs as jobs.

use std::path::Path;

use super::guest_files::GuestFiles;
use crate::cargo::{Executable, cargo};
use crate::nested::On;
use crate::nested::job::Job;

/// Test programs of this package whose names start with the prefix boot Linux guests.
const GUEST_TEST_PACKAGE: &str = "integration-tests";
const GUEST_TEST_PREFIX: &str = "linux_";
/// Seconds after which a test program that runs here is ended: the longest takes two minutes.
const HOST_LIMIT: u32 = 900;

/// Whether the program boots Linux guests.
pub fn boots_linux(test: &Executable) -> bool {
    test.package == GUEST_TEST_PACKAGE
        && test.kind == "test"
        && test.target.starts_with(GUEST_TEST_PREFIX)
}

/// One job a test program.
pub fn of_tests(
    tests: &[Executable],
    files: &GuestFiles,
    filter: Option<&str>,
    on: On,
) -> Vec<Job> {
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
pub fn limited(seconds: u32) -> Vec<String> {
    vec!["timeout".to_owned(), "--kill-after=10".to_owned(), seconds.to_string()]
}

/// The examples in the documentation.
pub fn doc_tests(workspace: &Path, files: &GuestFiles, filter: Option<&str>) -> Job {
    let mut argv = vec![cargo()];
    argv.extend(["test", "--locked", "--doc", "--workspace", "--quiet", "--"].map(str::to_owned));
    argv.extend(filter.map(str::to_owned));
    Job {
        label: "documentation's examples".into(),
        argv,
        directory: workspace.to_owned(),
        environment: files.environment().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
