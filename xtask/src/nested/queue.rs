//! Jobs that wait to be run, shared by all that run some of them at the same time.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::job::Job;

/// Jobs, each known by its index in the list, and which of them wait.
#[derive(Debug)]
pub struct Queue {
    jobs: Vec<Job>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<usize>,
    repeated: BTreeSet<usize>,
}

impl Queue {
    /// A queue in which all jobs wait, in their order.
    pub fn new(jobs: Vec<Job>) -> Self {
        let waiting = (0..jobs.len()).collect();
        Self { jobs, state: Mutex::new(State { waiting, repeated: BTreeSet::new() }) }
    }

    /// All jobs, whether they wait or not.
    pub fn jobs(&self) -> &[Job] {
        &self.jobs
    }

    /// The index of the next job, which waits no longer.
    pub fn take(&self) -> Option<usize> {
        self.state().waiting.pop_front()
    }

    /// Whether no job waits.
    pub fn is_empty(&self) -> bool {
        self.state().waiting.is_empty()
    }

    /// Has a job whose machine was lost wait again, before all others. Refuses the second time.
    pub fn give_back(&self, index: usize) -> bool {
        let mut state = self.state();
        let is_first = state.repeated.insert(index);
        if is_first {
            state.waiting.push_front(index);
        }
        is_first
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_is_taken_once_and_comes_back_once() {
        let job = Job {
            label: String::new(),
            argv: vec![],
            directory: "/".into(),
            environment: [].into(),
        };
        let queue = Queue::new(vec![job.clone(), job]);
        assert_eq!((queue.take(), queue.is_empty()), (Some(0), false));
        assert!(queue.give_back(0));
        assert_eq!((queue.take(), queue.take(), queue.take()), (Some(0), Some(1), None));
        assert!(!queue.give_back(0));
        assert!(queue.is_empty());
    }
}
