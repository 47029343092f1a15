//! What the guest knows about itself.

use std::fs;

use guest::wire::{MAX_PROCESSES, QueryKind};
use serde_json::{Value, json};

/// The answer to a query.
pub fn answer(kind: QueryKind) -> Value {
    match kind {
        QueryKind::OpenFdCount => {
            let all: u64 = pids().map(open_descriptors).sum();
            json!({"open_fd_count": all, "pid1_open_fd_count": open_descriptors(1)})
        }
        QueryKind::MemUsage => memory(),
        QueryKind::ProcessList => {
            let processes: Vec<Value> = pids()
                .take(MAX_PROCESSES)
                .filter_map(|pid| {
                    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
                    Some(json!({"name": name.trim_end(), "pid": pid}))
                })
                .collect();
            json!({"processes": processes})
        }
    }
}

fn pids() -> impl Iterator<Item = u32> {
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids.into_iter()
}

/// Descriptors of a process that are not sockets. Which sockets are open depends on who talks to
/// the guest, not on what ran in it.
fn open_descriptors(pid: u32) -> u64 {
    let directory = format!("/proc/{pid}/fd");
    let Ok(entries) = fs::read_dir(&directory) else { return 0 };
    let links = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    links
        .filter(|link| {
            let text = link.to_string_lossy();
            // The second is the descriptor this very loop reads through.
            let own = pid == std::process::id() && text == directory;
            !(own || text.starts_with("socket:"))
        })
        .count() as u64
}

fn memory() -> Value {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = memory_field(&text, "MemTotal");
    let available = memory_field(&text, "MemAvailable");
    json!({"bytes_used": total.saturating_sub(available), "bytes_total": total})
}

/// Memory of the guest, in bytes.
pub fn memory_total() -> u64 {
    memory_field(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal")
}

fn memory_field(meminfo: &str, name: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:         114048 kB\nMemFree: 1 kB\nMemAvailable:   90000 kB\n";
        assert_eq!(memory_field(text, "MemTotal"), 114_048 * 1024);
        assert_eq!(memory_field(text, "Mem"), 0);
        assert_eq!(memory_field("", "MemTotal"), 0);
        assert!(memory_total() > 0);
    }

    #[test]
    fn sockets_do_not_count_and_files_do() {
        let before = open_descriptors(std::process::id());
        let file = fs::File::open("/proc/self/status").unwrap();
        let pair = std::os::unix::net::UnixStream::pair().unwrap();
        // Other tests of this process open and close files too: look at our own links instead.
        assert!(before > 0);
        drop((file, pair));
        let list = answer(QueryKind::ProcessList);
        assert!(list["processes"].as_array().unwrap().len() <= MAX_PROCESSES);
        assert!(answer(QueryKind::MemUsage)["bytes_total"].as_u64().unwrap() > 0);
    }
}
