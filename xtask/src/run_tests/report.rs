//! What became of one group of tests, and the tables that show it.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::tally::Tally;

/// What became of one group of tests.
#[derive(Debug)]
pub struct Report {
    pub name: &'static str,
    /// Where it ran, in a word.
    pub place: &'static str,
    pub tally: Tally,
    pub took: Duration,
    /// What failed: programs with how they ended, or why the group could not run to its end.
    pub troubles: Vec<String>,
    /// Programs that were started once more, because their machine was lost or they failed in an
    /// emulated one, and why.
    pub repeats: Vec<String>,
    /// Programs that ended and failed, by their places, with their part of the tally.
    pub failed: Vec<(usize, Tally)>,
    /// How long each program took, by its label.
    pub durations: Vec<(String, Duration)>,
}

impl Report {
    /// One to be filled in.
    pub fn empty(name: &'static str, place: &'static str) -> Self {
        Self {
            name,
            place,
            tally: Tally::default(),
            took: Duration::ZERO,
            troubles: Vec::new(),
            repeats: Vec::new(),
            failed: Vec::new(),
            durations: Vec::new(),
        }
    }

    /// Whether everything ran and passed.
    pub fn is_success(&self) -> bool {
        self.tally.failed == 0 && self.troubles.is_empty()
    }

    /// Adds what came of other programs of the group, which ran at the same time.
    pub fn join(&mut self, other: Self) {
        self.tally += other.tally;
        self.took = self.took.max(other.took);
        self.troubles.extend(other.troubles);
        self.repeats.extend(other.repeats);
        self.failed.extend(other.failed);
        self.durations.extend(other.durations);
    }

    /// Puts what came of the second try of the programs that failed in place of the first.
    pub fn replace_failed(&mut self, again: Self) {
        for (_, tally) in self.failed.drain(..) {
            self.tally -= tally;
        }
        self.tally += again.tally;
        self.took += again.took;
        self.repeats.append(&mut self.troubles);
        self.repeats.extend(again.repeats);
        self.troubles = again.troubles;
        self.failed = again.failed;
        self.durations.extend(again.durations);
    }
}

/// One line a group, and what failed or was repeated. Writing to a string cannot fail, so results of
/// that are ignored.
pub fn summary(reports: &[Report]) -> String {
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
pub fn verdict(reports: &[Report], filtered: bool) -> Result<()> {
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
        let tally = Tally { passed, failed, ignored: 0 };
        Report { tally, took: Duration::from_millis(1500), ..Report::empty(name, "here") }
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
    fn programs_of_two_machines_are_one_group() {
        let mut first = report(GUESTS, 3, 0);
        let mut second = report(GUESTS, 2, 1);
        second.troubles.push("one of them".into());
        second.took = Duration::from_secs(4);
        first.join(second);
        assert_eq!(first.tally, Tally { passed: 5, failed: 1, ignored: 0 });
        assert_eq!(first.took, Duration::from_secs(4));
        assert!(!first.is_success());
    }

    #[test]
    fn a_filter_that_matches_nothing_is_a_failure() {
        assert!(verdict(&[report("host tests", 0, 0), report(GUESTS, 0, 0)], true).is_err());
    }
}
