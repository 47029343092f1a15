//! The fuzz targets as a group of tests.

use std::time::Instant;

use super::report::Report;
use super::tally::Tally;
use crate::fuzz;

/// Builds all targets and runs each for a few seconds.
pub fn run() -> Report {
    let begun = Instant::now();
    let mut report = Report::empty("fuzz targets", "natively");
    match fuzz::among_tests() {
        Ok(outcomes) => {
            // The planted bug was found.
            report.tally += Tally { passed: 1, ..Tally::default() };
            for outcome in outcomes {
                report.tally += Tally {
                    passed: u64::from(outcome.executions > 0 && !outcome.has_failed()),
                    failed: u64::from(outcome.has_failed()),
                    ignored: u64::from(outcome.skipped.is_some()),
                };
                report.troubles.extend(outcome.trouble());
            }
        }
        Err(error) => report.troubles.push(format!("{error:#}")),
    }
    report.took = begun.elapsed();
    report
}
