//! State of this host that an attack must not change.

use std::fs;

use serde::Serialize;

use brainstorm_agent::bench::Footprint;

/// State of this host that an attack must not change, or only within a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HostState {
    /// When PID 1 of the host started, in clock ticks since the host booted.
    pub pid1_started: u64,
    /// Memory, descriptors and threads of this process.
    pub agent: Footprint,
}

impl HostState {
    /// Reads the present state.
    pub fn now() -> Self {
        Self { pid1_started: started("/proc/1/stat"), agent: Footprint::now() }
    }

    /// What changed since `before` and should not have: PID 1 must be the same process, and this
    /// process may have grown by at most `growth_mib` MiB.
    pub fn breaches(&self, before: &Self, growth_mib: u64) -> Vec<String> {
        let mut breaches = Vec::new();
        if self.pid1_started != before.pid1_started || self.pid1_started == 0 {
            breaches.push("PID 1 of the host is another process than before".to_owned());
        }
        let grown = self.agent.rss_kib.saturating_sub(before.agent.rss_kib) >> 10;
        if grown > growth_mib {
            breaches.push(format!("the agent grew by {grown} MiB, more than {growth_mib}"));
        }
        breaches
    }
}

/// The start time of a process: field 22 of proc_pid_stat(5). The command name before it may hold
/// any byte, so fields are counted from its end.
fn started(path: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    fields.split_whitespace().nth(19).and_then(|field| field.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_and_another_init_are_breaches() {
        let before = HostState::now();
        assert!(before.pid1_started > 0);
        assert_eq!(before.breaches(&before, 0), Vec::<String>::new());
        let mut after = before;
        after.pid1_started += 1;
        after.agent.rss_kib += 65 << 10;
        assert_eq!(after.breaches(&before, 64).len(), 2);
        assert_eq!(after.breaches(&before, 65).len(), 1);
    }
}
