//! How long a frame to the relay may be, as configured and as a relay's close shows.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::message::DEFAULT_FRAME_BYTES;

/// No relay is taken to refuse frames of this length. Acknowledgements and errors are shorter.
const SHORTEST: usize = 1024;

/// The longest frame that is sent to the relay. Clones share it.
#[derive(Debug, Clone)]
pub struct FrameBound(Arc<AtomicUsize>);

impl FrameBound {
    /// A bound of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// The bound in bytes.
    pub fn bytes(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// The relay closed a session because a frame was too long. From now on, no frame is sent that
    /// may have been this one.
    pub(super) fn lower(&self, refused: &RefusedLengths) {
        let bound = (refused.shortest / 2).max(refused.longest_taken).max(SHORTEST);
        self.0.fetch_min(bound, Relaxed);
    }
}

impl Default for FrameBound {
    fn default() -> Self {
        Self::new(DEFAULT_FRAME_BYTES)
    }
}

/// What is known of a frame that was too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedLengths {
    /// Length of the shortest frame that it may have been.
    pub shortest: usize,
    /// Length of the longest frame that the relay has taken in the session.
    pub longest_taken: usize,
}

/// Lengths of the frames of a session that were longer than all before them, and that the relay has
/// not confirmed. A relay that closes the session because of a frame's length has taken all before it,
/// so it was one of these.
#[derive(Debug, Default)]
pub struct Lengths(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Number of the frame in its session, and its length: both grow.
    records: Vec<(u64, usize)>,
    longest: usize,
    longest_taken: usize,
}

impl Lengths {
    /// Notes a frame that is about to be written.
    pub fn wrote(&self, number: u64, bytes: usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes > state.longest {
            state.longest = bytes;
            state.records.push((number, bytes));
        }
    }

    /// The relay has read the frames up to and with this one.
    pub fn confirmed(&self, number: u64) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = state.records.partition_point(|(record, _)| *record <= number);
        let last = state.records.drain(..taken).next_back();
        if let Some((_, bytes)) = last {
            state.longest_taken = bytes;
        }
    }

    /// What was refused when the relay closes the session now; nothing when it has confirmed all.
    pub fn refused(&self) -> Option<RefusedLengths> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, shortest) = *state.records.first()?;
        Some(RefusedLengths { shortest, longest_taken: state.longest_taken })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_was_longer_than_all_before_it() {
        let lengths = Lengths::default();
        assert_eq!(lengths.refused(), None);
        for (number, bytes) in [(1, 300), (2, 9000), (3, 500), (4, 70_000), (5, 8000)] {
            lengths.wrote(number, bytes);
        }
        assert_eq!(lengths.refused(), Some(RefusedLengths { shortest: 300, longest_taken: 0 }));
        lengths.confirmed(3);
        assert_eq!(
            lengths.refused(),
            Some(RefusedLengths { shortest: 70_000, longest_taken: 9000 })
        );
        lengths.confirmed(5);
        lengths.wrote(6, 60_000);
        assert_eq!(lengths.refused(), None, "one as long was taken");
    }

    #[test]
    fn nothing_that_may_have_been_refused_is_within_the_bound_again() {
        let bound = FrameBound::new(100_000);
        let after = |shortest, longest_taken| {
            bound.lower(&RefusedLengths { shortest, longest_taken });
            bound.clone().bytes()
        };
        assert_eq!(after(70_000, 9000), 35_000);
        assert_eq!(after(34_000, 30_000), 30_000);
        assert_eq!(after(80_000, 70_000), 30_000, "it does not rise again");
        assert_eq!(after(1500, 0), SHORTEST);
    }
}
