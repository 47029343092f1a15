//! Which host a figure comes from. A latency without it means nothing.

use serde::Serialize;

/// The host a measurement was made on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// The processor's name.
    pub cpu: String,
    /// Processors this process may use.
    pub cpus: usize,
    /// The kernel's release.
    pub kernel: String,
    /// What is behind `/dev/kvm`: `hardware` or `software`.
    pub kvm: String,
}

impl Host {
    /// This host.
    pub fn here() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map(|(_, name)| name.trim().to_owned())
            .unwrap_or_default();
        Self {
            cpu,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            kvm: vmm::probe()
                .map_or_else(|_| "none".to_owned(), |p| format!("{:?}", p.kind).to_lowercase()),
        }
    }
}
