//! Calls that wait for a machine, first come, first served.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar};

/// A call that waits.
#[derive(Clone)]
pub struct Waiter {
    /// Number of the waiting call in the order of arrival.
    pub id: u64,
    /// Whose call it is.
    pub tenant: Arc<str>,
    /// Wakes this call and no other.
    pub wake: Arc<Condvar>,
}

/// A bounded queue that serves the first who can be served.
pub struct Queue {
    waiting: VecDeque<Waiter>,
    capacity: usize,
    next_id: u64,
}

impl Queue {
    /// A queue with room for `capacity` calls.
    pub fn new(capacity: usize) -> Self {
        Self { waiting: VecDeque::new(), capacity, next_id: 0 }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Joins at the end. `None` when the queue is full.
    pub fn join(&mut self, tenant: &Arc<str>) -> Option<Waiter> {
        if self.waiting.len() >= self.capacity {
            return None;
        }
        let (id, tenant) = (self.next_id, Arc::clone(tenant));
        self.next_id += 1;
        let waiter = Waiter { id, tenant, wake: Arc::new(Condvar::new()) };
        self.waiting.push_back(waiter.clone());
        Some(waiter)
    }

    /// The first one whose tenant may be served. Those before it keep their places.
    pub fn first(&self, may: impl Fn(&str) -> bool) -> Option<&Waiter> {
        self.waiting.iter().find(|waiter| may(&waiter.tenant))
    }

    /// Takes one out, wherever it stands.
    pub fn leave(&mut self, id: u64) {
        self.waiting.retain(|waiter| waiter.id != id);
    }

    /// Wakes every waiting call; each looks for itself at what has changed.
    pub fn wake_all(&self) {
        for waiter in &self.waiting {
            waiter.wake.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(queue: &mut Queue, may: impl Fn(&str) -> bool) -> Vec<u64> {
        let mut ids = Vec::new();
        while let Some(id) = queue.first(&may).map(|waiter| waiter.id) {
            queue.leave(id);
            ids.push(id);
        }
        ids
    }

    #[test]
    fn the_first_who_may_is_served_first() {
        let mut queue = Queue::new(4);
        for tenant in ["a", "b", "a", "b"] {
            queue.join(&Arc::from(tenant)).unwrap();
        }
        assert!(queue.join(&Arc::from("c")).is_none());
        assert_eq!(ids(&mut queue, |tenant| tenant == "b"), [1, 3]);
        assert_eq!(queue.join(&Arc::from("c")).unwrap().id, 4);
        assert_eq!(ids(&mut queue, |_| true), [0, 2, 4]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn a_queue_without_room_takes_no_call() {
        assert!(Queue::new(0).join(&Arc::from("a")).is_none());
    }
}
