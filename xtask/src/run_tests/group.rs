//! Runs one group of test programs and keeps its result.

use std::time::Instant;

use super::report::Report;
use super::tally::SummaryReader;
use crate::nested::job::{Finished, Job, Observer, Stream};
use crate::nested::pass_on::{self, pass_on};
use crate::nested::{Queue, Runner};

/// When the output of a program is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// As it comes.
    Live,
    /// In one block when the program has ended, because others run at the same time.
    InBlocks,
    /// Never: a summary that tests of this program printed would count as their own.
    #[cfg(test)]
    Never,
}

/// Programs that may fail at first. More have a reason in common, which no second try removes.
const MAX_RETRIED: usize = 3;

/// Runs programs once more that failed in an emulated machine, which now and then loses a guest. The
/// report names them.
pub fn retry_failed(report: Report, jobs: &[Job], runner: &Runner) -> Report {
    let name = report.name;
    try_again(report, jobs, |jobs| run(name, runner, &Queue::new(jobs), Show::Live))
}

fn try_again(mut report: Report, jobs: &[Job], run: impl FnOnce(Vec<Job>) -> Report) -> Report {
    let only_these = report.failed.len() == report.troubles.len();
    if report.failed.is_empty() || report.failed.len() > MAX_RETRIED || !only_these {
        return report;
    }
    let failed: Vec<Job> =
        report.failed.iter().filter_map(|(index, _)| jobs.get(*index)).cloned().collect();
    for job in &failed {
        eprintln!("\n{} failed in an emulated machine and is run once more.", job.label);
    }
    let again = run(failed);
    report.replace_failed(again);
    report
}

/// Runs jobs of the queue until none waits.
pub fn run(name: &'static str, runner: &Runner, queue: &Queue, show: Show) -> Report {
    let start = Instant::now();
    let mut follower = Follower {
        jobs: queue.jobs(),
        report: Report::empty(name, runner.name()),
        reader: None,
        show,
        block: Vec::new(),
    };
    let result = runner.run(queue, &mut follower);
    follower.abandon();
    let mut report = follower.report;
    if let Err(e) = result {
        report.troubles.push(format!("{e:#}"));
    }
    report.took = start.elapsed();
    report
}

struct Follower<'a> {
    jobs: &'a [Job],
    report: Report,
    /// Reads the running job's output.
    reader: Option<SummaryReader>,
    show: Show,
    /// Output of the running job that is still to be shown.
    block: Vec<(Stream, Vec<u8>)>,
}

impl Follower<'_> {
    fn label(&self, index: usize) -> &str {
        self.jobs.get(index).map_or("unknown", |job| &job.label)
    }

    /// Counts a job that never finished.
    fn abandon(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.report.tally += reader.finish(false);
        }
        if !self.block.is_empty() {
            self.show_block("\n     Output of a program that did not end:\n");
        }
    }

    fn show_block(&mut self, title: &str) {
        pass_on::block(title, &std::mem::take(&mut self.block));
    }
}

impl Observer for Follower<'_> {
    fn ready(&mut self, kvm: &str) {
        eprintln!("The nested machine is up: {kvm}.");
    }

    fn started(&mut self, index: usize) {
        if self.show == Show::Live {
            eprintln!("\n     Running {}", self.label(index));
        }
        self.reader = Some(SummaryReader::default());
    }

    fn output(&mut self, _: usize, stream: Stream, bytes: &[u8]) {
        if let (Stream::Stdout, Some(reader)) = (stream, &mut self.reader) {
            reader.read(bytes);
        }
        match self.show {
            Show::Live => pass_on(stream, bytes),
            Show::InBlocks => self.block.push((stream, bytes.to_vec())),
            #[cfg(test)]
            Show::Never => {}
        }
    }

    fn finished(&mut self, index: usize, finished: &Finished) {
        let label = self.label(index).to_owned();
        if self.show == Show::InBlocks {
            let seconds = finished.took.as_secs_f64();
            self.show_block(&format!("\n     Ran {label}: {} ({seconds:.1} s)\n", finished.ended));
        }
        let success = finished.ended.is_success();
        if !success {
            self.report.troubles.push(format!("{label}: {}", finished.ended));
        }
        self.report.durations.push((label, finished.took));
        if let Some(reader) = self.reader.take() {
            let tally = reader.finish(success);
            self.report.tally += tally;
            if !success {
                self.report.failed.push((index, tally));
            }
        }
    }

    fn repeats(&mut self, index: usize, why: &str) {
        // It will count when it has run to its end.
        self.reader = None;
        self.abandon();
        eprintln!("\n{why}\n{} is run once more in a new machine.", self.label(index));
        let first = why.lines().next().unwrap_or_default();
        self.report.repeats.push(format!("{}: {first}", self.label(index)));
    }

    fn lost(&mut self, index: usize, why: &str) {
        self.abandon();
        self.report.troubles.push(format!("{}, twice: {why}", self.label(index)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_tests::tally::Tally;

    fn shell(script: &str) -> Job {
        Job {
            label: format!("<{script}>"),
            argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
            directory: "/".into(),
            environment: [].into(),
        }
    }

    fn quietly(jobs: &[Job]) -> Report {
        run("some", &Runner::Native, &Queue::new(jobs.to_vec()), Show::Never)
    }

    #[test]
    fn results_add_up_over_programs() {
        let ok = "echo 'test result: ok. 2 passed; 0 failed; 1 ignored'";
        let report = quietly(&[shell(ok), shell(ok)]);
        assert_eq!(report.tally, Tally { passed: 4, failed: 0, ignored: 2 });
        assert!(report.is_success());
        assert_eq!(report.durations.len(), 2);
    }

    #[test]
    fn several_take_their_jobs_from_one_queue() {
        let queue = Queue::new(vec![shell("true"), shell("sleep 0.1"), shell("true")]);
        let lane = || run("some", &Runner::Native, &queue, Show::Never);
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(lane);
            (lane(), first.join().unwrap())
        });
        assert_eq!(first.tally.passed + second.tally.passed, 3);
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
        let report = try_again(quietly(&jobs), &jobs, |failed| quietly(&failed));
        assert_eq!(report.tally, Tally { passed: 1, failed: 1, ignored: 0 });
        assert!(!report.is_success());
    }

    #[test]
    fn many_failures_are_no_accident() {
        let jobs = [(); MAX_RETRIED + 1].map(|()| shell("exit 1"));
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
