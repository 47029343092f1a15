//! Goes on after a nested machine was lost: the emulator now and then stands still or crashes, which
//! says nothing about the job that ran.

use super::emulator::NestedError;
use super::job::Observer;
use super::queue::Queue;

/// Machines that may be lost in one run.
const MAX_LOST: usize = 3;

/// Runs jobs of the queue in one machine after the other until none waits. `run` starts a machine
/// and says which job it had when it ended with an error. A job whose machine was lost comes once
/// more; when that loses a machine too, the job has failed.
pub fn run(
    queue: &Queue,
    observer: &mut dyn Observer,
    mut run: impl FnMut(&mut dyn Observer, &mut Option<usize>) -> Result<(), NestedError>,
) -> Result<(), NestedError> {
    let mut lost = 0;
    while !queue.is_empty() {
        let mut running = None;
        let Err(error) = run(observer, &mut running) else { return Ok(()) };
        if !is_loss(&error) || lost == MAX_LOST {
            return Err(error);
        }
        lost += 1;
        match running {
            Some(index) if queue.give_back(index) => observer.repeats(index, &error.to_string()),
            Some(index) => observer.lost(index, &error.to_string()),
            None => {}
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::nested::emulator::Phase;
    use crate::nested::job::{Ended, Finished, Job, Stream};

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
        let queue = Queue::new(jobs(count));
        let result = super::run(&queue, &mut record, |observer, running| {
            let loss = losses.next();
            while let Some(index) = queue.take() {
                *running = Some(index);
                observer.started(index);
                if loss.is_some_and(|label| *label == queue.jobs()[index].label) {
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
        let queue = Queue::new(jobs(2));
        let result = super::run(&queue, &mut Record::default(), |_, _| {
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
