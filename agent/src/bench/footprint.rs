//! What this process holds.

use serde::Serialize;

/// What this process holds, as the kernel counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// Resident memory in KiB.
    pub rss_kib: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// Memory mappings.
    pub mappings: u64,
}

impl Footprint {
    /// Now. What cannot be read counts as zero.
    pub fn now() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let status = read("/proc/self/status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
        };
        Self {
            rss_kib: field("VmRSS:"),
            descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64),
            threads: field("Threads:"),
            mappings: read("/proc/self/maps").lines().count() as u64,
        }
    }
}
