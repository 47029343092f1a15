//! Which results are on their way, so that none is sent by two tasks at once.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Commands whose result a task is sending.
#[derive(Default)]
pub(super) struct Deliveries(Mutex<HashSet<String>>);

impl Deliveries {
    /// Enters a command. `false` when it was entered before: another task sends its result.
    pub(super) fn begin(&self, command_id: &str) -> bool {
        self.lock().insert(command_id.to_owned())
    }

    /// Removes a command unless there is something left to try. Asking and removing are one step.
    /// Returns whether the command was removed.
    pub(super) fn end_unless(&self, command_id: &str, go_on: impl FnOnce() -> bool) -> bool {
        let mut set = self.lock();
        let ends = !go_on();
        if ends {
            set.remove(command_id);
        }
        ends
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_delivers_a_result() {
        let deliveries = Deliveries::default();
        assert!(deliveries.begin("a"));
        assert!(!deliveries.begin("a"));
        assert!(!deliveries.end_unless("a", || true));
        assert!(!deliveries.begin("a"));
        assert!(deliveries.end_unless("a", || false));
        assert!(deliveries.begin("a"));
    }
}
