//! Going round and round over sealed memory, a few blocks at a time.

use std::io;
use std::ops::Range;

use crate::memory::SealedMemory;

/// What a stretch of zeros counts for: reading 64 blocks of zeros takes about as long as hashing
/// four.
const STEPS_OF_ZEROS: usize = 4;

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScrubStep {
    /// A block with a hash of its own.
    Block(usize),
    /// Blocks that must all be zeros.
    Zeros(Range<usize>),
}

/// Where one machine is on its way round.
#[derive(Debug, Default)]
pub struct ScrubCursor {
    next: usize,
}

impl ScrubCursor {
    /// Visits the next pieces that are worth `steps`, but none twice, and returns how many blocks
    /// they hold.
    pub fn advance<E: From<io::Error>>(
        &mut self,
        sealed: &SealedMemory,
        steps: usize,
        mut visit: impl FnMut(ScrubStep) -> Result<(), E>,
    ) -> Result<usize, E> {
        let count = sealed.blocks();
        let (mut spent, mut seen) = (0, 0);
        while spent < steps && seen < count {
            let at = if self.next < count { self.next } else { 0 };
            let (step, cost) = step_at(sealed, at)?;
            let blocks = step.blocks();
            seen += blocks.len();
            spent += cost;
            self.next = blocks.end;
            visit(step)?;
        }
        Ok(seen)
    }
}

impl ScrubStep {
    fn blocks(&self) -> Range<usize> {
        match self {
            Self::Block(block) => *block..block + 1,
            Self::Zeros(blocks) => blocks.clone(),
        }
    }
}

fn step_at(sealed: &SealedMemory, block: usize) -> io::Result<(ScrubStep, usize)> {
    Ok(match sealed.zeros_from(block)? {
        Some(blocks) => (ScrubStep::Zeros(blocks), STEPS_OF_ZEROS),
        None => (ScrubStep::Block(block), 1),
    })
}

/// Calls of [`ScrubCursor::advance`] with so many steps each until everything has been visited.
/// `None` when it never is. Hashes what has no hash yet.
pub fn calls_for_all(sealed: &SealedMemory, steps: usize) -> io::Result<Option<usize>> {
    if steps == 0 {
        return Ok((sealed.blocks() == 0).then_some(0));
    }
    let (mut block, mut calls, mut left) = (0, 0, 0_usize);
    while block < sealed.blocks() {
        let (step, cost) = step_at(sealed, block)?;
        if left == 0 {
            calls += 1;
            left = steps;
        }
        left = left.saturating_sub(cost);
        block = step.blocks().end;
    }
    // A round need not begin with the first block.
    Ok(Some(if calls > 1 { calls + 1 } else { calls }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use proptest::prelude::*;

    use super::*;
    use crate::memory::PAGE_BYTES;

    proptest! {
        /// Everything is visited in as many calls as promised, wherever a round begins.
        #[test]
        fn everything_is_visited_in_time(
            blocks in 1..400_usize,
            data in prop::collection::vec(any::<usize>(), 0..6),
            steps in 1..100_usize,
            start in 0..1000_usize,
        ) {
            let sealed = SealedMemory::create("test", blocks * PAGE_BYTES - 512, |file| {
                data.iter().try_for_each(|at| file.write_all_at(&[1], (at % blocks * PAGE_BYTES) as u64))
            })
            .unwrap();
            let mut cursor = ScrubCursor::default();
            let advance = |cursor: &mut ScrubCursor, seen: &mut Vec<usize>| {
                cursor.advance::<io::Error>(&sealed, steps, |step| {
                    seen.extend(step.blocks());
                    Ok(())
                })
            };
            for _ in 0..start % 7 {
                advance(&mut cursor, &mut Vec::new()).unwrap();
            }
            let mut seen = Vec::new();
            for _ in 0..calls_for_all(&sealed, steps).unwrap().unwrap() {
                advance(&mut cursor, &mut seen).unwrap();
            }
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen, (0..blocks).collect::<Vec<_>>());
        }
    }

    #[test]
    fn one_call_visits_nothing_twice() {
        let sealed =
            SealedMemory::create("test", 100 * PAGE_BYTES, |file| file.write_all_at(&[1; 100], 0));
        let sealed = sealed.unwrap();
        let mut cursor = ScrubCursor::default();
        for _ in 0..3 {
            let seen = cursor.advance::<io::Error>(&sealed, usize::MAX, |_| Ok(())).unwrap();
            assert_eq!(seen, 100);
        }
        assert_eq!(calls_for_all(&sealed, 0).unwrap(), None);
        assert_eq!(calls_for_all(&sealed, 1000).unwrap(), Some(1));
    }
}
