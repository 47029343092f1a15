//! Runs one group of test programs and keeps its result.

use std::time::{Duration, Instant};

use super::tally::{SummaryReader, Tally};
use crate::nested::Place;
use crate::nested::job::{Finished, Job, Observer, Stream};
use crate::nested::pass_on::pass_on;

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
}

impl Report {
    /// One to be filled in.
    pub fn empty(name: &'static str, place: &'static str) -> Self {
        let (tally, took) = (Tally::default(), Duration::ZERO);
        let (troubles, repeats, failed) = (Vec::new(), Vec::new(), Vec::new());
        Self { name, place, tally, took, troubles, repeats, failed }
    }

    /// Whether everything ran and passed.
    pub fn is_success(&self) -> bool {
        self.tally.failed == 0 && self.troubles.is_empty()
    }

    /// Puts what came of the second try of the programs that failed in place of the first.
    fn mend(&mut self, again: Self) {
        for (_, tally) in self.failed.drain(..) {
            self.tally -= tally;
        }
        self.tally += again.tally;
        self.took += again.took;
        self.repeats.append(&mut self.troubles);
        self.repeats.extend(again.repeats);
        self.troubles = again.troubles;
        self.failed = again.failed;
    }
}

/// Programs that may fail at first. More have a reason in common, which no second try removes.
const MOST_MENDED: usize = 3;

/// The same as [`run`], but a program that failed is tried once more. For emulated machines, which
/// now and then lose a guest; the report names what was tried again.
pub fn run_in_emulator(name: &'static str, place: &Place, jobs: &[Job]) -> Report {
    let report = run(name, place, jobs);
    try_again(report, jobs, |jobs| run(name, place, jobs))
}

fn try_again(mut report: Report, jobs: &[Job], run: impl FnOnce(&[Job]) -> Report) -> Report {
    let only_these = report.failed.len() == report.troubles.len();
    if report.failed.is_empty() || report.failed.len() > MOST_MENDED || !only_these {
        return report;
    }
    let failed: Vec<Job> =
        report.failed.iter().filter_map(|(index, _)| jobs.get(*index)).cloned().collect();
    for job in &failed {
        eprintln!("\n{} failed in an emulated machine and is run once more.", job.label);
    }
    let again = run(&failed);
    report.mend(again);
    report
}

/// Runs the jobs in `place`, passing on their output.
pub fn run(name: &'static str, place: &Place, jobs: &[Job]) -> Report {
    run_showing(name, place, jobs, &mut pass_on)
}

fn run_showing(
    name: &'static str,
    place: &Place,
    jobs: &[Job],
    show: &mut dyn FnMut(Stream, &[u8]),
) -> Report {
    let start = Instant::now();
    let mut follower = Follower {
        jobs,
        tally: Tally::default(),
        troubles: vec![],
        repeats: vec![],
        failed: vec![],
        reader: None,
        show,
    };
    let result = place.run(jobs, &mut follower);
    follower.abandon();
    let Follower { tally, mut troubles, repeats, failed, .. } = follower;
    if let Err(e) = result {
        troubles.push(format!("{e:#}"));
    }
    Report { name, place: place.name(), tally, took: start.elapsed(), troubles, repeats, failed }
}

struct Follower<'a> {
    jobs: &'a [Job],
    tally: Tally,
    troubles: Vec<String>,
    repeats: Vec<String>,
    failed: Vec<(usize, Tally)>,
    /// Reads the running job's output.
    reader: Option<SummaryReader>,
    /// Shows output to the user.
    show: &'a mut dyn FnMut(Stream, &[u8]),
}

impl Follower<'_> {
    fn label(&self, index: usize) -> &str {
        self.jobs.get(index).map_or("unknown", |job| &job.label)
    }

    /// Counts a job that never finished.
    fn abandon(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.tally += reader.finish(false);
        }
    }
}

impl Observer for Follower<'_> {
    fn ready(&mut self, kvm: &str) {
        eprintln!("The nested machine is up: {kvm}.");
    }

    fn started(&mut self, index: usize) {
        eprintln!("\n     Running {}", self.label(index));
        self.reader = Some(SummaryReader::default());
    }

    fn output(&mut self, _: usize, stream: Stream, bytes: &[u8]) {
        if let (Stream::Stdout, Some(reader)) = (stream, &mut self.reader) {
            reader.read(bytes);
        }
        (self.show)(stream, bytes);
    }

    fn finished(&mut self, index: usize, finished: &Finished) {
        let success = finished.ended.is_success();
        if !success {
            self.troubles.push(format!("{}: {}", self.label(index), finished.ended));
        }
        if let Some(reader) = self.reader.take() {
            let tally = reader.finish(success);
            self.tally += tally;
            if !success {
                self.failed.push((index, tally));
            }
        }
    }

    fn repeats(&mut self, index: usize, why: &str) {
        // It will count when it has run to its end.
        self.reader = None;
        eprintln!("\n{why}\n{} is run once more in a new machine.", self.label(index));
        let first = why.lines().next().unwrap_or_default();
        self.repeats.push(format!("{}: {first}", self.label(index)));
    }

    fn lost(&mut self, index: usize, why: &str) {
        self.abandon();
        self.troubles.push(format!("{}, twice: {why}", self.label(index)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Job {
        Job {
            label: format!("<{script}>"),
            argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
            directory: "/".into(),
            environment: [].into(),
        }
    }

    /// Runs without showing: a summary shown here would count in this program's own.
    fn quietly(jobs: &[Job]) -> Report {
        run_showing("some", &Place::Native, jobs, &mut |_, _| {})
    }

    #[test]
    fn results_add_up_over_programs() {
        let ok = "echo 'test result: ok. 2 passed; 0 failed; 1 ignored'";
        let report = quietly(&[shell(ok), shell(ok)]);
        assert_eq!(report.tally, Tally { passed: 4, failed: 0, ignored: 2 });
        assert!(report.is_success());
    }

    #[test]
    fn a_second_try_takes_the_place_of_the_first() {
        let jobs = [shell("exit 101"), shell("true")];
        let first = quietly(&jobs);
        let mended = try_again(first, &jobs, |failed| {
            assert_eq!(failed, &jobs[..1]);
            quietly(&[shell("true")])
        });
        assert_eq!(mended.tally, Tally { passed: 2, failed: 0, ignored: 0 });
        assert!(mended.is_success());
        assert_eq!(mended.repeats, ["<exit 101>: exit status 101"]);
    }

    #[test]
    fn what_fails_twice_has_failed() {
        let jobs = [shell("exit 101"), shell("true")];
        let report = try_again(quietly(&jobs), &jobs, quietly);
        assert_eq!(report.tally, Tally { passed: 1, failed: 1, ignored: 0 });
        assert!(!report.is_success());
    }

    #[test]
    fn many_failures_are_no_accident() {
        let jobs = [(); MOST_MENDED + 1].map(|()| shell("exit 1"));
        let report = try_again(quietly(&jobs), &jobs, |_| panic!("tried again"));
        assert_eq!(report.tally.failed, jobs.len() as u64);
    }

    #[test]
    fn failure_names_the_program_and_does_not_stop_the_rest() {
        let report = quietly(&[shell("exit 101"), shell("true")]);
        assert_eq!(report.tally, Tally { passed: 1, failed: 1, ignored: 0 });
        assert_eq!(report.troubles, ["<exit 101>: exit status 101"]);
        assert!(!report.is_success());
    }
}
