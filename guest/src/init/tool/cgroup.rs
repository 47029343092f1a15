//! A tool's cgroup: its limits, and the one handle on all its processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use guest::registry::Limits;

use crate::init::defence::Defence;
use crate::init::setup::TOOL_CGROUPS;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// One directory of the cgroup hierarchy.
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Takes any directory for a cgroup, for tests: nothing in it does anything.
    #[cfg(test)]
    pub fn pretend(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Creates a cgroup with `limits`.
    pub fn create(limits: &Limits) -> Result<Self, String> {
        let name = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        let path = Path::new(TOOL_CGROUPS).join(name);
        fs::create_dir(&path).map_err(|e| format!("cannot create a cgroup: {e}"))?;
        let group = Self { path };
        group.limit(limits).inspect_err(|_| {
            group.remove();
        })?;
        Ok(group)
    }

    fn limit(&self, limits: &Limits) -> Result<(), String> {
        if !Defence::Limits.holds() {
            return Ok(());
        }
        let memory = limits.memory_mib.saturating_mul(1 << 20).to_string();
        for (file, value) in [
            ("memory.max", memory.as_str()),
            // A tool with some of its processes missing is worse than no tool.
            ("memory.oom.group", "1"),
            ("pids.max", &limits.pids.to_string()),
        ] {
            fs::write(self.path.join(file), value)
                .map_err(|e| format!("cannot set {file}: {e}"))?;
        }
        Ok(())
    }

    /// The file a process writes `0` to in order to move itself here.
    pub fn processes_file(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Kills every process, including those being forked.
    pub fn kill(&self) {
        if !Defence::Kill.holds() {
            return;
        }
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
    }

    /// True when the kernel killed for lack of memory.
    pub fn ran_out_of_memory(&self) -> bool {
        fs::read_to_string(self.path.join("memory.events")).is_ok_and(|text| {
            text.lines()
                .any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
        })
    }

    /// Removes the directory. False while processes are still on their way out.
    pub fn remove(&self) -> bool {
        fs::remove_dir(&self.path).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_actual_kill_is_out_of_memory() {
        let directory = tempfile::tempdir().unwrap();
        let group = Cgroup::pretend(directory.path());
        assert!(!group.ran_out_of_memory());
        for (count, expected) in [("0", false), ("1", true), ("12", true)] {
            let text = format!("low 0\nhigh 0\nmax 7\noom 3\noom_kill {count}\noom_group_kill 0\n");
            fs::write(directory.path().join("memory.events"), text).unwrap();
            assert_eq!(group.ran_out_of_memory(), expected, "{count}");
        }
    }
}
