//! What the guest says of its processes and its memory: no proof, but a reason to look.
//!
//! A process that was not there halts: nothing starts one between a reset and the question. The
//! guest leaves out the workers that its kernel starts and ends as it likes, so what calls itself
//! one here is none. A process that is missing is a suspicion, and so is memory in use beyond what
//! the kernel's caches explain.

use guest::wire::KERNEL_WORKER;

use super::finding::{Finding, Location, Source};
use crate::Process;

/// Share of the memory in use in the golden state that may be in use on top of it: what the
/// kernel's caches take between a reset and the question grows with what it has to look after.
const SLACK_SHARE: u64 = 8;

/// What the guest says of itself, beside its descriptors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestInventory {
    /// Processes of the guest; `None` when the guest did not say.
    pub processes: Option<Vec<Process>>,
    /// Bytes of memory in use; `None` when it did not say.
    pub memory_used: Option<u64>,
}

impl GuestInventory {
    /// What differs from `golden`: what halts, and what is odd. What either of the two does not
    /// say is not compared.
    pub fn compare(&self, golden: &Self) -> (Vec<Finding>, Vec<Finding>) {
        let (mut findings, mut suspicions) = (Vec::new(), Vec::new());
        if let (Some(now), Some(then)) = (&self.processes, &golden.processes) {
            // Guest programs of earlier images list workers, and any process among them.
            let lists_workers = then.iter().any(is_worker);
            let counts = |process: &&Process| !(lists_workers && is_worker(process));
            let only_in = |one: &[Process], other: &[Process]| -> Vec<Process> {
                one.iter().filter(counts).filter(|p| !other.contains(p)).cloned().collect()
            };
            let new = only_in(now, then);
            findings.extend(new.iter().map(|process| of(process, "not there", "running")));
            let missing = only_in(then, now);
            suspicions.extend(missing.iter().map(|process| of(process, "running", "not there")));
        }
        if let (Some(now), Some(then)) = (self.memory_used, golden.memory_used)
            && now > then.saturating_add(then / SLACK_SHARE)
        {
            let (then, now) = (format!("{then} bytes"), format!("{now} bytes"));
            suspicions.push(Finding::new(Source::Guest, Location::MemoryUse, then, now));
        }
        (findings, suspicions)
    }
}

fn is_worker(process: &Process) -> bool {
    process.name.starts_with(KERNEL_WORKER)
}

fn of(process: &Process, was: &str, is: &str) -> Finding {
    let location = Location::Process { name: process.name.clone(), pid: process.pid };
    Finding::new(Source::Guest, location, was, is)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(processes: &[(u32, &str)], memory_used: u64) -> GuestInventory {
        let processes =
            processes.iter().map(|(pid, name)| Process { name: (*name).into(), pid: *pid });
        GuestInventory { processes: Some(processes.collect()), memory_used: Some(memory_used) }
    }

    fn lines(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.line.as_str()).collect()
    }

    #[test]
    fn a_process_that_was_not_there_halts_and_is_named() {
        let golden = inventory(&[(1, "init"), (9, "kthreadd")], 10 << 20);
        let (findings, suspicions) = golden.compare(&golden);
        assert!(findings.is_empty() && suspicions.is_empty());

        let now = inventory(&[(1, "init"), (9, "kthreadd"), (60, "sleep")], 10 << 20);
        let (findings, suspicions) = now.compare(&golden);
        assert_eq!(lines(&findings), ["guest: process 60 (sleep) is running, was not there"]);
        assert!(suspicions.is_empty());

        // The same process under another name, and another one under the same name.
        let now = inventory(&[(1, "sh"), (9, "kthreadd"), (61, "init")], 10 << 20);
        assert_eq!(now.compare(&golden).0.len(), 2);
    }

    #[test]
    fn the_name_of_a_worker_hides_no_process() {
        let golden = inventory(&[(1, "init")], 10 << 20);
        let now = inventory(&[(1, "init"), (60, "kworker/0:1")], 10 << 20);
        let (findings, _) = now.compare(&golden);
        assert_eq!(lines(&findings), ["guest: process 60 (kworker/0:1) is running, was not there"]);
    }

    #[test]
    fn a_guest_that_lists_workers_is_not_asked_about_them() {
        let golden = inventory(&[(1, "init"), (9, "kworker/0:1")], 10 << 20);
        let now = inventory(&[(1, "init"), (9, "kworker/0:1-events"), (60, "kworker/u2:0")], 0);
        assert_eq!(now.compare(&golden), (Vec::new(), Vec::new()));
        assert_eq!(inventory(&[(1, "init")], 0).compare(&golden), (Vec::new(), Vec::new()));
        let now = inventory(&[(1, "init"), (60, "sleep")], 0);
        assert_eq!(now.compare(&golden).0.len(), 1);
    }

    #[test]
    fn missing_processes_and_much_more_memory_are_only_odd() {
        let golden = inventory(&[(1, "init"), (9, "kthreadd")], 16 << 20);
        let (findings, suspicions) = inventory(&[(1, "init")], 16 << 20).compare(&golden);
        assert!(findings.is_empty());
        assert_eq!(lines(&suspicions), ["guest: process 9 (kthreadd) is not there, was running"]);

        let using = |bytes| inventory(&[(1, "init"), (9, "kthreadd")], bytes).compare(&golden);
        assert_eq!(using(18 << 20), (Vec::new(), Vec::new()));
        let (findings, suspicions) = using((18 << 20) + 1);
        assert!(findings.is_empty());
        assert_eq!(suspicions.len(), 1, "{suspicions:?}");
        assert_eq!(suspicions[0].location, Location::MemoryUse);
        assert_eq!(using(0), (Vec::new(), Vec::new()));
    }

    #[test]
    fn what_was_not_said_is_not_compared() {
        let golden = inventory(&[(1, "init")], 1);
        let silent = GuestInventory::default();
        assert_eq!(silent.compare(&golden), (Vec::new(), Vec::new()));
        assert_eq!(golden.compare(&silent), (Vec::new(), Vec::new()));
    }
}
