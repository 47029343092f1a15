//! What the guest says of its processes and its memory: no proof, but a reason to look.
//!
//! A process that was not there halts: nothing starts one between a reset and the question. Only
//! the kernel's own workers come and go as the kernel likes; a new one is a suspicion, as its name
//! proves nothing, and so is a process that is missing. Memory in use is a suspicion at most: the
//! kernel's caches move it.

use super::finding::{Finding, Place, Source};
use crate::sandbox::Process;

/// How the guest's kernel names its workers, which it starts and ends by itself.
const WORKER: &str = "kworker/";
/// More memory in use than in the golden state is odd from here on, in bytes.
const MEMORY_SLACK: u64 = 4 << 20;

/// What the guest says of itself, beside its descriptors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Its processes; `None` when it did not say.
    pub processes: Option<Vec<Process>>,
    /// Bytes of memory in use; `None` when it did not say.
    pub memory_used: Option<u64>,
}

impl Account {
    /// What differs from `golden`: what halts, and what is odd. What either of the two does not
    /// say is not compared.
    pub fn compare(&self, golden: &Self) -> (Vec<Finding>, Vec<Finding>) {
        let (mut findings, mut suspicions) = (Vec::new(), Vec::new());
        if let (Some(now), Some(then)) = (&self.processes, &golden.processes) {
            for process in now.iter().filter(|process| !contains(then, process)) {
                let finding = of(process, "not there", "running");
                let odd = process.name.starts_with(WORKER);
                if odd { &mut suspicions } else { &mut findings }.push(finding);
            }
            let missing = then.iter().filter(|process| !contains(now, process));
            suspicions.extend(missing.map(|process| of(process, "running", "not there")));
        }
        if let (Some(now), Some(then)) = (self.memory_used, golden.memory_used)
            && now > then.saturating_add(MEMORY_SLACK)
        {
            let (then, now) = (format!("{then} bytes"), format!("{now} bytes"));
            suspicions.push(Finding::new(Source::Guest, Place::MemoryUse, then, now));
        }
        (findings, suspicions)
    }
}

/// A worker is known by its id: its name says what it does at the moment.
fn contains(list: &[Process], process: &Process) -> bool {
    list.iter().any(|other| {
        let workers = other.name.starts_with(WORKER) && process.name.starts_with(WORKER);
        other.pid == process.pid && (workers || other.name == process.name)
    })
}

fn of(process: &Process, was: &str, is: &str) -> Finding {
    let place = Place::Process { name: process.name.clone(), pid: process.pid };
    Finding::new(Source::Guest, place, was, is)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(processes: &[(u32, &str)], memory_used: u64) -> Account {
        let processes =
            processes.iter().map(|(pid, name)| Process { name: (*name).into(), pid: *pid });
        Account { processes: Some(processes.collect()), memory_used: Some(memory_used) }
    }

    fn lines(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.line.as_str()).collect()
    }

    #[test]
    fn a_process_that_was_not_there_halts_and_is_named() {
        let golden = account(&[(1, "init"), (9, "kworker/0:1")], 10 << 20);
        let (findings, suspicions) = golden.compare(&golden);
        assert!(findings.is_empty() && suspicions.is_empty());

        let now = account(&[(1, "init"), (9, "kworker/0:1"), (60, "sleep")], 10 << 20);
        let (findings, suspicions) = now.compare(&golden);
        assert_eq!(lines(&findings), ["guest: process 60 (sleep) is running, was not there"]);
        assert!(suspicions.is_empty());

        // The same process under another name, and another one under the same name.
        let now = account(&[(1, "sh"), (9, "kworker/0:1"), (61, "init")], 10 << 20);
        assert_eq!(now.compare(&golden).0.len(), 2);
    }

    #[test]
    fn workers_missing_processes_and_memory_are_only_odd() {
        let golden = account(&[(1, "init"), (9, "kworker/0:1")], 10 << 20);
        let now =
            account(&[(1, "init"), (9, "kworker/0:1-events"), (60, "kworker/u2:0")], 20 << 20);
        let (findings, suspicions) = now.compare(&golden);
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!(suspicions.len(), 2, "{suspicions:?}");
        assert!(suspicions[0].line.contains("kworker/u2:0"));
        assert_eq!(suspicions[1].place, Place::MemoryUse);
        let (findings, suspicions) = account(&[(1, "init")], 14 << 20).compare(&golden);
        assert!(findings.is_empty());
        assert_eq!(
            lines(&suspicions),
            ["guest: process 9 (kworker/0:1) is not there, was running"]
        );
    }

    #[test]
    fn what_was_not_said_is_not_compared() {
        let golden = account(&[(1, "init")], 1);
        let silent = Account::default();
        assert_eq!(silent.compare(&golden), (Vec::new(), Vec::new()));
        assert_eq!(golden.compare(&silent), (Vec::new(), Vec::new()));
    }
}
