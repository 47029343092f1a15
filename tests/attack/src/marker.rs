//! Leaves a mark wherever something could stay, and looks for one everywhere.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;

use crate::log::Log;
use crate::system::{Answer, address, call, fork, sleep_for_ever};

/// Largest file that is searched.
const MOST: u64 = 4 << 20;
/// Whom a mark may be written to, where tools can write at all.
const PLACES: &[&str] = &["/work", "/tmp", "/run", "/dev/shm", "/var", "/dev", "/etc", "/root"];

/// Leaves `marker`, and stays for so many milliseconds.
pub fn leave(marker: &str, stay_ms: u64) -> ExitCode {
    let mut log = Log::new("mark");
    let mut left = 0;
    for place in PLACES {
        left += u32::from(fs::write(format!("{place}/mark"), marker).is_ok());
    }
    log.fact("files", left);
    log.control("leave a file", if left > 0 { Ok(0) } else { Err(Errno::EACCES) });
    log.control("leave a process", stay_behind(marker));
    std::thread::sleep(Duration::from_millis(stay_ms));
    log.print()
}

/// A process named after the mark that holds it in its memory.
fn stay_behind(marker: &str) -> Answer {
    if fork()?.is_none() {
        // PR_SET_NAME takes the first 15 bytes.
        let name = format!("{marker}\0");
        let _ = call(libc::SYS_prctl, [15, address(name.as_str())]);
        let _ = call(libc::SYS_setsid, []);
        sleep_for_ever();
    }
    Ok(0)
}

/// Says where `marker` is.
pub fn find(marker: &str) -> ExitCode {
    let mut log = Log::new("find");
    let mut found = Vec::new();
    search(Path::new("/"), marker, 0, &mut found);
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name();
        let own = std::process::id().to_string();
        let numeric = name.to_str().is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()));
        if !numeric || name.to_str() == Some(own.as_str()) {
            continue;
        }
        for file in ["comm", "cmdline", "environ"] {
            let path = process.path().join(file);
            let text = fs::read(&path).unwrap_or_default();
            // A name is cut at 15 bytes.
            if contains(&text, &marker.as_bytes()[..marker.len().min(15)]) {
                found.push(path);
            }
        }
    }
    let found: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
    log.fact("found", found);
    log.print()
}

fn search(directory: &Path, marker: &str, depth: u32, found: &mut Vec<PathBuf>) {
    if depth > 6 || ["/proc", "/sys"].iter().any(|place| directory == Path::new(place)) {
        return;
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            search(&entry.path(), marker, depth + 1, found);
        } else if kind.is_file() {
            let mut text = Vec::new();
            let read = fs::File::open(entry.path())
                .and_then(|file| file.take(MOST).read_to_end(&mut text));
            if read.is_ok() && contains(&text, marker.as_bytes()) {
                found.push(entry.path());
            }
        }
    }
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    !wanted.is_empty() && memchr::memmem::find(text, wanted).is_some()
}
