//! Whether what is done again and again leaves something behind in this process.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::Footprint;

/// A thread that has ended is counted for a moment longer, and keeps its descriptors as long.
const SETTLED: Duration = Duration::from_secs(2);
/// What an allocator and a kernel may keep for later, over half of the turns.
const MOST_MIB: u64 = 16;
const MOST_MAPPINGS: u64 = 8;

/// What this process held before, half way through, and after.
///
/// Memory of a machine is filled as it is touched, so what counts of memory and mappings is the
/// second half of the turns; descriptors and threads must not become more at all.
#[derive(Debug, Clone, Copy)]
pub struct Leak {
    before: Footprint,
    half_way: Footprint,
    after: Footprint,
    most_mib: u64,
}

impl Leak {
    /// Before the first turn, when everything has been done once. `guest_mib` is the memory of
    /// machines that go on from one turn to the next and touch more of it as they do.
    pub fn watch(guest_mib: u32) -> Self {
        let now = Footprint::now();
        let most_mib = MOST_MIB + u64::from(guest_mib);
        Self { before: now, half_way: now, after: now, most_mib }
    }

    /// Before the turn of this number, of so many.
    pub fn at(&mut self, turn: u32, of: u32) {
        if turn == of / 2 {
            self.half_way = Footprint::now();
        }
    }

    /// After the last turn: what is left of them.
    pub fn found(&mut self) -> Vec<String> {
        let mut found = self.found_once();
        found.extend(self.grown());
        found
    }

    /// After a single turn, in which threads may have left memory to an allocator: descriptors and
    /// threads that are left of it.
    pub fn found_once(&mut self) -> Vec<String> {
        let begun = Instant::now();
        loop {
            self.after = Footprint::now();
            let kept = self.kept();
            if kept.is_empty() || begun.elapsed() > SETTLED {
                return kept;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn kept(&self) -> Vec<String> {
        let Self { before, after, .. } = self;
        more([
            ("descriptors", before.descriptors, after.descriptors, 0),
            ("threads", before.threads, after.threads, 0),
        ])
    }

    fn grown(&self) -> Vec<String> {
        let Self { half_way, after, .. } = self;
        more([
            ("mappings", half_way.mappings, after.mappings, MOST_MAPPINGS),
            ("resident MiB", half_way.rss_kib >> 10, after.rss_kib >> 10, self.most_mib),
        ])
    }

    /// All of it, for the report.
    pub fn evidence(&self) -> Value {
        json!({"before": self.before, "half_way": self.half_way, "after": self.after})
    }
}

/// What went up by more than it may.
fn more(counts: [(&str, u64, u64, u64); 2]) -> Vec<String> {
    counts
        .into_iter()
        .filter(|(_, then, now, most)| now.saturating_sub(*then) > *most)
        .map(|(what, then, now, _)| format!("{what} went from {then} to {now}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_in_the_second_half_is_a_leak_and_what_stops_growing_is_not() {
        let before = Footprint::default();
        let filled = Footprint { rss_kib: 1 << 20, mappings: 100, ..before };
        let grown = |half_way| Leak { before, half_way, after: filled, most_mib: MOST_MIB }.grown();
        assert_eq!(grown(filled), Vec::<String>::new());
        assert_eq!(grown(before).len(), 2);
    }

    #[test]
    fn a_descriptor_that_stays_open_is_found() {
        let mut leak = Leak::watch(0);
        let kept: Vec<_> = (0..100).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let found = leak.found_once().join("\n");
        assert!(found.contains("descriptors"), "{found}");
        drop(kept);
    }
}
