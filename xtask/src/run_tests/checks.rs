//! What the compiler checks besides the tests: clippy over everything, the documentation, and each
//! crate by itself with each choice of its features.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use super::group::{self, Show};
use super::report::Report;
use crate::cargo::cargo;
use crate::nested::job::Job;
use crate::nested::{Queue, Runner};

/// Runs all checks.
pub fn run(workspace: &Path, show: Show) -> Result<Report> {
    let mut jobs = vec![clippy(workspace), documentation(workspace)];
    jobs.extend(features(workspace)?);
    Ok(group::run("compiler's checks", &Runner::Native, &Queue::new(jobs), show))
}

fn job(workspace: &Path, arguments: &[&str]) -> Job {
    let argv = std::iter::once(cargo()).chain(arguments.iter().map(|&word| word.to_owned()));
    Job {
        label: format!("cargo {}", arguments.join(" ")),
        argv: argv.collect(),
        directory: workspace.to_owned(),
        environment: BTreeMap::new(),
    }
}

/// Clippy over every target, without any warning.
pub fn clippy(workspace: &Path) -> Job {
    let arguments =
        ["clippy", "--locked", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
    job(workspace, &arguments)
}

/// The documentation of every crate, without any warning.
pub fn documentation(workspace: &Path) -> Job {
    let mut job = job(workspace, &["doc", "--locked", "--quiet", "--workspace", "--no-deps"]);
    job.environment.insert("RUSTDOCFLAGS".to_owned(), "-D warnings".to_owned());
    job
}

/// Each crate alone: with no features, with each one, and with all.
fn features(workspace: &Path) -> Result<Vec<Job>> {
    let metadata = crate::metadata::read(workspace)?;
    let choices = metadata.packages.iter().flat_map(|package| {
        choices(&package.features).into_iter().map(|choice| (package.name.clone(), choice))
    });
    let jobs = choices.map(|(package, choice)| {
        let mut arguments = vec!["check", "--locked", "--quiet", "--package", &package];
        arguments.extend(choice.iter().map(String::as_str));
        job(workspace, &arguments)
    });
    Ok(jobs.collect())
}

/// Arguments for each choice, no two of them the same choice.
fn choices(features: &BTreeMap<String, Vec<String>>) -> Vec<Vec<String>> {
    let none = "--no-default-features".to_owned();
    let named: Vec<&String> = features.keys().filter(|name| *name != "default").collect();
    let mut choices = vec![vec![none.clone()]];
    for name in &named {
        choices.push(vec![none.clone(), format!("--features={name}")]);
    }
    if named.len() > 1 {
        choices.push(vec!["--all-features".to_owned()]);
    }
    choices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_is_checked_alone_and_with_the_others() {
        let features = |names: &[&str]| {
            names.iter().map(|&name| (name.to_owned(), Vec::new())).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(choices(&features(&[])).len(), 1);
        assert_eq!(choices(&features(&["default", "one"])).len(), 2);
        let two = choices(&features(&["one", "two"]));
        assert_eq!(two.len(), 4);
        assert_eq!(two[1], ["--no-default-features", "--features=one"]);
        assert_eq!(two[3], ["--all-features"]);
    }

    #[test]
    fn this_workspace_has_choices() {
        let jobs = features(&crate::workspace::root().unwrap()).unwrap();
        assert!(jobs.iter().any(|job| job.label.contains("--package vmm")));
    }
}
