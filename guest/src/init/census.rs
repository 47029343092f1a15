//! What the guest knows about itself.
//!
//! It is asked after every reset, where each system call and each page that is written to counts:
//! a process costs a call or three, and what was asked at once is answered from one list of them.

use std::fs::{self, File};
use std::io::Read;

use guest::wire::{KERNEL_WORKER, MAX_PROCESSES, QueryKind};
use serde_json::{Value, json};

/// Longest name of a process (proc_pid_comm(5): 15 bytes and a newline), with room to spare.
const NAME_BYTES: usize = 64;
/// More than the lines of `/proc/meminfo` and `/proc/PID/stat` that are read take.
const TEXT_BYTES: usize = 512;
/// The kernel's thread that starts all others of its own.
const KERNEL_THREADS: u32 = 2;

/// A look at the guest, for all that was asked at once.
#[derive(Default)]
pub struct Census {
    /// Ids of the processes, read at the first question about them.
    pids: Option<Vec<u32>>,
}

impl Census {
    /// The answer to a query.
    pub fn answer(&mut self, kind: QueryKind) -> Value {
        match kind {
            QueryKind::OpenFdCount => {
                let sized = directories_are_sized();
                let of = |pid| open_descriptors(pid, sized);
                let all: u64 = self.pids().iter().copied().map(of).sum();
                json!({"open_fd_count": all, "pid1_open_fd_count": of(1)})
            }
            QueryKind::MemUsage => memory(),
            QueryKind::ProcessList => {
                let listed = self.pids().iter().filter_map(|pid| Some((*pid, listed_name(*pid)?)));
                let processes: Vec<Value> = listed
                    .take(MAX_PROCESSES)
                    .map(|(pid, name)| json!({"name": name, "pid": pid}))
                    .collect();
                json!({"processes": processes})
            }
        }
    }

    fn pids(&mut self) -> &[u32] {
        self.pids.get_or_insert_with(pids)
    }
}

fn pids() -> Vec<u32> {
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids
}

/// The name of a process. Workers of the kernel have none here: it starts and ends them as it
/// likes, whatever ran in the guest. A name proves nothing, so what only calls itself one is listed.
fn listed_name(pid: u32) -> Option<String> {
    let mut buffer = [0; NAME_BYTES];
    let name = String::from_utf8_lossy(read(&format!("/proc/{pid}/comm"), &mut buffer)?);
    let name = name.trim_end();
    let leave_out = name.starts_with(KERNEL_WORKER) && parent(pid) == Some(KERNEL_THREADS);
    (!leave_out).then(|| name.to_owned())
}

fn parent(pid: u32) -> Option<u32> {
    let mut buffer = [0; TEXT_BYTES];
    parent_in(&String::from_utf8_lossy(read(&format!("/proc/{pid}/stat"), &mut buffer)?))
}

/// The fourth field (proc_pid_stat(5)). The second is a name in brackets, which may hold anything.
fn parent_in(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// Descriptors of a process that are not sockets. Which sockets are open depends on who talks to
/// the guest, not on what ran in it.
fn open_descriptors(pid: u32, sized: bool) -> u64 {
    let directory = format!("/proc/{pid}/fd");
    if sized && size(&directory) == 0 {
        return 0;
    }
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

/// Whether the size of such a directory is the number of its entries (Linux 6.2 and later), which
/// spares opening it for all the threads of the kernel. Elsewhere it is zero, also for this process.
fn directories_are_sized() -> bool {
    size("/proc/self/fd") != 0
}

fn size(path: &str) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

fn memory() -> Value {
    let (total, available) = memory_now();
    json!({"bytes_used": total.saturating_sub(available), "bytes_total": total})
}

/// Memory of the guest, in bytes.
pub fn memory_total() -> u64 {
    memory_now().0
}

/// All of it, and what could be had: the first and the third line (proc_meminfo(5)).
fn memory_now() -> (u64, u64) {
    let mut buffer = [0; TEXT_BYTES];
    let text = read("/proc/meminfo", &mut buffer).unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    (memory_field(&text, "MemTotal"), memory_field(&text, "MemAvailable"))
}

fn memory_field(meminfo: &str, name: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024))
}

/// The beginning of a file of the kernel's, which gives it in one piece.
fn read<'a>(path: &str, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let count = File::open(path).ok()?.read(buffer).ok()?;
    buffer.get(..count)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:         114048 kB\nMemFree: 1 kB\nMemAvailable:   90000 kB\n";
        assert_eq!(memory_field(text, "MemTotal"), 114_048 * 1024);
        assert_eq!(memory_field(text, "Mem"), 0);
        assert_eq!(memory_field("", "MemTotal"), 0);
        let answer = Census::default().answer(QueryKind::MemUsage);
        let (used, total) = (answer["bytes_used"].as_u64(), answer["bytes_total"].as_u64());
        assert_eq!(total, Some(memory_total()));
        assert!(used > Some(0) && used < total, "{answer}");
    }

    /// Whether a process has become `sleep` and waits, as proc_pid_stat(5) tells.
    fn sleeps(pid: u32) -> bool {
        fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains("(sleep) S ")
    }

    /// Runs in a process of its own: no other test opens or closes its descriptors.
    #[test]
    fn sockets_do_not_count_and_files_do() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = File::open("/proc/self/status").unwrap();
        let open = |extra: std::process::Stdio| {
            let mut sleep = std::process::Command::new("sleep");
            let mut child =
                sleep.arg("1000").stdin(extra).stdout(std::process::Stdio::null()).spawn().unwrap();
            // The descriptors of this process are gone once the other program runs, and those of its
            // libraries once it sleeps.
            while !sleeps(child.id()) {
                std::thread::yield_now();
            }
            let count = open_descriptors(child.id(), directories_are_sized());
            assert_eq!(count, open_descriptors(child.id(), false));
            child.kill().unwrap();
            child.wait().unwrap();
            count
        };
        let with_socket = open(std::os::fd::OwnedFd::from(theirs).into());
        let with_file = open(file.into());
        assert_eq!(with_file, with_socket + 1);
        drop(ours);
    }

    #[test]
    fn a_process_is_listed_by_the_name_it_has() {
        let list = Census::default().answer(QueryKind::ProcessList);
        let list = list["processes"].as_array().unwrap();
        assert!(!list.is_empty() && list.len() <= MAX_PROCESSES, "{list:?}");
        let own = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(listed_name(std::process::id()).as_deref(), Some(own.trim_end()));
    }

    #[test]
    fn whoever_only_calls_itself_a_worker_of_the_kernel_is_listed() {
        let named = |name: &str| {
            let name = name.to_owned();
            std::thread::spawn(move || {
                fs::write("/proc/thread-self/comm", &name).unwrap();
                // SAFETY: takes nothing and cannot fail.
                let thread = unsafe { libc::gettid() };
                listed_name(u32::try_from(thread).unwrap())
            })
            .join()
            .unwrap()
        };
        assert_eq!(named("kworker/0:1").as_deref(), Some("kworker/0:1"));
    }

    #[test]
    fn a_parent_is_found_behind_any_name() {
        assert_eq!(parent_in("9 (kworker/0:1) I 2 0 0 0 -1 69238880"), Some(2));
        assert_eq!(parent_in("9 (a) S 7 (b) R 1 0 0"), Some(1));
        assert_eq!(parent_in("9 (kworker/0:1"), None);
        assert_eq!(parent_in(""), None);
    }

    #[test]
    fn what_is_asked_at_once_is_answered_from_one_look() {
        let mut census = Census::default();
        census.answer(QueryKind::OpenFdCount);
        census.pids.as_mut().unwrap().retain(|pid| *pid == std::process::id());
        let list = census.answer(QueryKind::ProcessList);
        assert_eq!(list["processes"].as_array().unwrap().len(), 1);
    }
}
