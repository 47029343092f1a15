//! Takes all there is of something.

use std::fs;
use std::io::Write;
use std::process::ExitCode;

use crate::log::Log;
use crate::system::{fork, open, sleep_for_ever};

const PIECE: usize = 1 << 20;
/// Beyond what any machine has: who gets this far has met no limit.
const MOST: u64 = 1 << 20;

/// Takes until it is refused, and says how much it got.
pub fn run(what: &str) -> ExitCode {
    let mut log = Log::new("exhaust");
    let (taken, refused) = match what {
        "nothing" => (0, "nothing was asked".to_owned()),
        "memory" => memory(),
        "forks" => forks(),
        "threads" => threads(),
        "descriptors" => descriptors(),
        "disk" => file("/work/big"),
        "scratch" => file("/tmp/big"),
        "inodes" => inodes(),
        "output" => output(),
        "console" => console(),
        _ => return ExitCode::from(2),
    };
    log.fact("what", what);
    log.fact("taken", taken);
    log.fact("refused", refused);
    log.print()
}

/// The kernel ends this process, or refuses.
fn memory() -> (u64, String) {
    let mut taken = Vec::new();
    for _ in 0..MOST {
        let mut piece = Vec::new();
        if let Err(e) = piece.try_reserve_exact(PIECE) {
            return (taken.len() as u64, e.to_string());
        }
        piece.resize(PIECE, 0xa5_u8);
        taken.push(piece);
    }
    (taken.len() as u64, String::new())
}

fn forks() -> (u64, String) {
    for count in 0..MOST {
        match fork() {
            Ok(Some(_)) => {}
            Ok(None) => sleep_for_ever(),
            Err(errno) => return (count, errno.to_string()),
        }
    }
    (MOST, String::new())
}

fn threads() -> (u64, String) {
    for count in 0..MOST {
        let thread = std::thread::Builder::new().stack_size(16 << 10);
        if let Err(e) = thread.spawn(|| sleep_for_ever()) {
            return (count, e.to_string());
        }
    }
    (MOST, String::new())
}

fn descriptors() -> (u64, String) {
    for count in 0..MOST {
        if let Err(errno) = open("/dev/null", libc::O_RDONLY) {
            return (count, errno.to_string());
        }
    }
    (MOST, String::new())
}

fn file(path: &str) -> (u64, String) {
    let piece = vec![0xa5; PIECE];
    let mut file = match fs::File::create(path) {
        Ok(file) => file,
        Err(e) => return (0, e.to_string()),
    };
    for count in 0..MOST {
        if let Err(e) = file.write_all(&piece).and_then(|()| file.sync_data()) {
            return (count, e.to_string());
        }
    }
    (MOST, String::new())
}

fn inodes() -> (u64, String) {
    for count in 0..MOST {
        if let Err(e) = fs::File::create(format!("/work/{count}")) {
            return (count, e.to_string());
        }
    }
    (MOST, String::new())
}

/// Until its deadline, or 16 MiB: what is kept of it is not up to the tool.
fn output() -> (u64, String) {
    let piece = vec![b'x'; PIECE];
    for count in 0..16 {
        if let Err(e) = std::io::stdout().write_all(&piece) {
            return (count, e.to_string());
        }
    }
    println!();
    (16, String::new())
}

/// Where tools may write to it at all.
fn console() -> (u64, String) {
    let line = [b'#'; 4096];
    let mut console = match fs::File::options().write(true).open("/dev/console") {
        Ok(console) => console,
        Err(e) => return (0, e.to_string()),
    };
    for count in 0..256 {
        if let Err(e) = console.write_all(&line) {
            return (count, e.to_string());
        }
    }
    (256, String::new())
}
