//! Goes on after a nested machine was lost: the emulator now and then stands still or crashes, which
//! says nothing about the job that ran.

use super::emulator::NestedError;
use super::job::{Finished, Job, Observer, Stream};

/// Machines that may be lost in one run.
const MOST_LOST: usize = 3;

/// Runs jobs in one machine after the other until all of them have ended.
#[derive(Debug, Default)]
pub struct Repeats {
    lost: usize,
    /// The job that ran in the machine lost last.
    victim: Option<usize>,
}

impl Repeats {
    /// Runs `jobs` with `run`, which is called again with the jobs that are left when it lost its
    /// machine. The job that was running comes once more; when that loses a machine too, it has
    /// failed and the one behind it comes next.
    pub fn run(
        mut self,
        jobs: &[Job],
        observer: &mut dyn Observer,
        mut run: impl FnMut(&[Job], &mut dyn Observer) -> Result<(), NestedError>,
    ) -> Result<(), NestedError> {
        let mut first = 0;
        while first < jobs.len() {
            let mut shifted = Shifted { observer: &mut *observer, by: first, next: first };
            let result = run(&jobs[first..], &mut shifted);
            let next = shifted.next;
            let Err(error) = result else { return Ok(()) };
            if !is_loss(&error) || self.lost == MOST_LOST {
                return Err(error);
            }
            self.lost += 1;
            first = next;
            if self.victim == Some(next) {
                observer.lost(next, &error.to_string());
                first += 1;
            } else {
                observer.repeats(next, &error.to_string());
            }
            self.victim = Some(next);
        }
        Ok(())
    }
}

/// Whether the machine was lost, rather than the time over or the machine of no use.
fn is_loss(error: &NestedError) -> bool {
    matches!(
        error,
        NestedError::StoodStill { .. }
            | NestedError::Stuck { .. }
            | NestedError::EndedEarly { .. }
            | NestedError::Damaged { .. }
    )
}

/// Tells of jobs by their places in the whole list.
struct Shifted<'a> {
    observer: &'a mut dyn Observer,
    by: usize,
    /// The first job that has not ended.
    next: usize,
}

impl Observer for Shifted<'_> {
    fn ready(&mut self, kvm: &str) {
        self.observer.ready(kvm);
    }

    fn started(&mut self, index: usize) {
        self.observer.started(self.by + index);
    }

    fn output(&mut self, index: usize, stream: Stream, bytes: &[u8]) {
        self.observer.output(self.by + index, stream, bytes);
    }

    fn finished(&mut self, index: usize, finished: &Finished) {
        self.next = self.by + index + 1;
        self.observer.finished(self.by + index, finished);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::nested::emulator::Phase;
    use crate::nested::job::Ended;

    fn jobs(count: usize) -> Vec<Job> {
        (0..count)
            .map(|index| Job {
                label: index.to_string(),
                argv: Vec::new(),
                directory: "/".into(),
                environment: [].into(),
            })
            .collect()
    }

    fn stood_still() -> NestedError {
        NestedError::StoodStill {
            silence: Duration::from_secs(1),
            during: Phase::BetweenJobs,
            logs: String::new(),
        }
    }

    #[derive(Default)]
    struct Record(Vec<String>);

    impl Observer for Record {
        fn output(&mut self, _: usize, _: Stream, _: &[u8]) {}

        fn finished(&mut self, index: usize, _: &Finished) {
            self.0.push(format!("{index} ends"));
        }

        fn repeats(&mut self, index: usize, _: &str) {
            self.0.push(format!("{index} again"));
        }

        fn lost(&mut self, index: usize, _: &str) {
            self.0.push(format!("{index} lost"));
        }
    }

    /// Runs jobs in machines of which the first ones are lost while the job named in `losses` runs.
    fn run(count: usize, losses: &[&str]) -> (Result<(), NestedError>, Vec<String>) {
        let mut losses = losses.iter();
        let mut record = Record::default();
        let result = Repeats::default().run(&jobs(count), &mut record, |jobs, observer| {
            let loss = losses.next();
            for (index, job) in jobs.iter().enumerate() {
                observer.started(index);
                if loss.is_some_and(|label| *label == job.label) {
                    return Err(stood_still());
                }
                let finished = Finished { ended: Ended::Exited(0), took: Duration::ZERO };
                observer.finished(index, &finished);
            }
            Ok(())
        });
        (result, record.0)
    }

    #[test]
    fn only_the_job_that_ran_is_repeated() {
        let (result, told) = run(3, &["1"]);
        result.unwrap();
        assert_eq!(told, ["0 ends", "1 again", "1 ends", "2 ends"]);
    }

    #[test]
    fn a_job_that_loses_two_machines_has_failed() {
        let (result, told) = run(2, &["0", "0"]);
        result.unwrap();
        assert_eq!(told, ["0 again", "0 lost", "1 ends"]);
    }

    #[test]
    fn not_for_ever() {
        let (result, _) = run(9, &["0", "1", "2", "3", "4"]);
        result.unwrap_err();
    }

    #[test]
    fn time_that_is_over_is_over() {
        let mut calls = 0;
        let result = Repeats::default().run(&jobs(2), &mut Record::default(), |_, _| {
            calls += 1;
            Err(NestedError::TimedOut {
                limit: Duration::ZERO,
                during: Phase::BetweenJobs,
                logs: String::new(),
            })
        });
        result.unwrap_err();
        assert_eq!(calls, 1);
    }
}
