//! The commands that documents show, as a group of tests.

use std::path::Path;

use anyhow::Result;

use super::group::{self, Show};
use super::guest_files::GuestFiles;
use super::report::Report;
use crate::documents::console_blocks;
use crate::nested::job::Job;
use crate::nested::{On, Queue, Runner};

/// Runs the commands that boot no Linux guest. A block that breaks the rule is a failure.
pub fn run(workspace: &Path, files: &GuestFiles, show: Show) -> Result<Report> {
    let (jobs, findings) = jobs(workspace, files, false, On::Native)?;
    let mut report = group::run("documents' commands", &Runner::Native, &Queue::new(jobs), show);
    report.troubles.extend(findings);
    Ok(report)
}

/// The commands that boot Linux guests, for the queue of the guest tests.
pub fn with_guests(workspace: &Path, files: &GuestFiles, on: On) -> Result<Vec<Job>> {
    Ok(jobs(workspace, files, true, on)?.0)
}

fn jobs(
    workspace: &Path,
    files: &GuestFiles,
    with_guests: bool,
    on: On,
) -> Result<(Vec<Job>, Vec<String>)> {
    let (blocks, findings) = console_blocks(workspace)?;
    let programs = files.agent.parent().unwrap_or(workspace);
    let jobs = blocks.iter().filter(|block| block.needs_guest == with_guests).map(|block| {
        // In the nested machine only /run is a file system of its own.
        let scratch = (on == On::Nested).then(|| ("TMPDIR".to_owned(), "/run".to_owned()));
        block.job(workspace, programs, files.environment().chain(scratch).collect())
    });
    Ok((jobs.collect(), findings))
}
