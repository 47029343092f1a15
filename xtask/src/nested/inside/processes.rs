//! What the processes of a machine are doing, for people who want to know why nothing happens.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks at how much processor time a thread has used.
const APART: Duration = Duration::from_secs(1);
/// A report stays below what one message can hold.
const MAX_BYTES: usize = 256 << 10;
/// Frames of a kernel stack.
const FRAMES: usize = 12;

/// Every thread of every process that has a program: its state, the time it used just now, what it
/// waits for, and where in the kernel.
pub fn report() -> String {
    let before: Vec<(PathBuf, u64)> =
        threads().into_iter().map(|task| (task.clone(), ticks(&task))).collect();
    std::thread::sleep(APART);
    let mut text = String::new();
    let mut process = PathBuf::new();
    for (task, ticks_before) in before {
        if text.len() > MAX_BYTES {
            text.push_str("  | ...\n");
            break;
        }
        let Some(of) = task.ancestors().nth(2) else { continue };
        // Writing to a string cannot fail.
        if of != process {
            of.clone_into(&mut process);
            let _ = writeln!(text, "  | {}: {}", last(of), command_line(of));
        }
        let used = ticks(&task).saturating_sub(ticks_before);
        let (name, state) = (read(&task, "comm"), state(&task));
        let (waits_in, call) = (read(&task, "wchan"), read(&task, "syscall"));
        let _ = writeln!(
            text,
            "  |   {} {name} {state}, {used} ticks a second, waits in {waits_in}, call {call}",
            last(&task)
        );
        for frame in read(&task, "stack").lines().take(FRAMES) {
            let _ = writeln!(text, "  |       {frame}");
        }
    }
    text
}

/// Directories of all threads that belong to programs; those of the kernel have no command line.
fn threads() -> Vec<PathBuf> {
    let numbered = |directory: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| last(path).bytes().all(|byte| byte.is_ascii_digit()))
            .collect();
        found.sort();
        found
    };
    let processes = numbered(Path::new("/proc"));
    let programs = processes.iter().filter(|process| !command_line(process).is_empty());
    programs.flat_map(|process| numbered(&process.join("task"))).collect()
}

fn command_line(process: &Path) -> String {
    read(process, "cmdline").replace('\0', " ")
}

fn last(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn read(directory: &Path, name: &str) -> String {
    let bytes = fs::read(directory.join(name)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

/// The fields of proc_pid_stat(5) from the third on: what comes before may hold spaces.
fn stat(task: &Path) -> Vec<String> {
    let stat = read(task, "stat");
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_whitespace().map(str::to_owned).collect()
}

fn state(task: &Path) -> String {
    stat(task).into_iter().next().unwrap_or_default()
}

/// Processor time used, in user and kernel mode (fields 14 and 15).
fn ticks(task: &Path) -> u64 {
    let fields = stat(task);
    let field = |index: usize| fields.get(index).and_then(|text| text.parse().ok()).unwrap_or(0);
    u64::saturating_add(field(11), field(12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_thread_is_found() {
        let (wake, wait) = std::sync::mpsc::channel::<()>();
        let waiter =
            std::thread::Builder::new().name("patient".into()).spawn(move || wait.recv()).unwrap();
        let report = report();
        drop(wake);
        waiter.join().unwrap().unwrap_err();
        assert!(report.contains("patient S, 0 ticks a second"), "{report}");
    }
}
