//! Whether repeated work leaves resources behind in this process.

use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::{Value, json};

use brainstorm_agent::bench::Footprint;

/// A thread that has ended is counted for a moment longer, and keeps its descriptors as long.
const QUIET_AFTER: Duration = Duration::from_secs(2);
/// Growth over the second half of the turns that an allocator and the kernel may cause.
const MAX_MIB: u64 = 16;
const MAX_MAPPINGS: u64 = 8;

/// Resources of this process before the turns, half way through them, and after them.
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
    /// Starts before the first turn, when everything has been done once. `guest_mib` is the memory,
    /// in MiB, of machines that live through all turns and touch more of it as they do.
    pub fn watch(guest_mib: u32) -> Self {
        let now = Footprint::now();
        let most_mib = MAX_MIB + u64::from(guest_mib);
        Self { before: now, half_way: now, after: now, most_mib }
    }

    /// Says that turn number `turn`, from 0, of `of` begins.
    pub fn at(&mut self, turn: u32, of: u32) {
        if turn == of / 2 {
            self.half_way = Footprint::now();
        }
    }

    /// After the last turn: the resources that are left of the turns, in words.
    pub fn found(&mut self) -> Vec<String> {
        let mut found = self.found_once();
        found.extend(self.grown());
        found
    }

    /// After a single turn: the descriptors and threads that are left of it, in words. Memory is not
    /// compared, because threads may have left it to an allocator.
    pub fn found_once(&mut self) -> Vec<String> {
        let begun = Instant::now();
        loop {
            self.after = Footprint::now();
            let kept = self.kept();
            if kept.is_empty() || begun.elapsed() > QUIET_AFTER {
                return kept;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn kept(&self) -> Vec<String> {
        let Self { before, after, .. } = self;
        let mut kept = more([
            ("descriptors", before.descriptors, after.descriptors, 0),
            ("threads", before.threads, after.threads, 0),
        ]);
        if after.threads > before.threads {
            kept.push(format!("the threads are {}", thread_names().join(", ")));
        }
        kept
    }

    fn grown(&self) -> Vec<String> {
        let Self { half_way, after, .. } = self;
        more([
            ("mappings", half_way.mappings, after.mappings, MAX_MAPPINGS),
            ("resident MiB", half_way.rss_kib >> 10, after.rss_kib >> 10, self.most_mib),
        ])
    }

    /// All three readings, for the report.
    pub fn evidence(&self) -> Value {
        json!({"before": self.before, "half_way": self.half_way, "after": self.after})
    }
}

/// Names of the threads of this process, sorted.
fn thread_names() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut names: Vec<_> = tasks
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .map(|name| name.trim_end().to_owned())
        .collect();
    names.sort();
    names
}

/// The counts that went up by more than their limit, in words.
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
        let grown = |half_way| Leak { before, half_way, after: filled, most_mib: MAX_MIB }.grown();
        assert_eq!(grown(filled), Vec::<String>::new());
        assert_eq!(grown(before).len(), 2);
    }

    /// Says to a test that it runs in a process of its own.
    const ALONE: &str = "BSM_REDTEAM_TEST_ALONE";

    /// Runs `test` of this module in a process of its own: here, others start and end threads and
    /// open and close files. True in that process.
    fn alone(test: &str) -> bool {
        if std::env::var_os(ALONE).is_some() {
            return true;
        }
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([&format!("leak::tests::{test}"), "--exact", "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        false
    }

    #[test]
    fn a_thread_that_goes_on_is_found_by_its_name() {
        if !alone("a_thread_that_goes_on_is_found_by_its_name") {
            return;
        }
        let mut leak = Leak::watch(0);
        assert_eq!(leak.found_once(), Vec::<String>::new());
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let goes_on = thread::Builder::new().name("goes on".into());
        let threads: Vec<_> = goes_on.spawn(move || ended.recv()).into_iter().collect();
        let found = leak.found_once().join("\n");
        drop(end);
        assert!(threads.into_iter().all(|thread| thread.join().is_ok()));
        assert!(found.contains("threads went from") && found.contains("goes on"), "{found}");
    }

    #[test]
    fn a_descriptor_that_stays_open_is_found() {
        if !alone("a_descriptor_that_stays_open_is_found") {
            return;
        }
        let mut leak = Leak::watch(0);
        let kept = std::fs::File::open("/dev/null").unwrap();
        let found = leak.found_once().join("\n");
        assert!(found.contains("descriptors"), "{found}");
        drop(kept);
        assert_eq!(leak.found_once(), Vec::<String>::new());
    }
}
