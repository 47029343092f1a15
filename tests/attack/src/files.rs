//! Ways to files of the host, and to bytes outside of the disk.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use nix::errno::Errno;

use crate::log::Log;
use crate::system::Answer;

const DISK: &str = "/dev/vda";
const SECTOR: u64 = 512;

/// `host_file`: the path of a file that only the host has. `secret`: text for this machine's own
/// memory and disk, which a search of them must find.
pub fn run(host_file: &str, secret: &str) -> ExitCode {
    let mut log = Log::new("files");
    let own = "/work/secret";
    log.control("write its own file", told(write(own, secret)));
    log.control("read its own file", read(own));
    let relative = host_file.trim_start_matches('/');
    for path in [
        host_file.to_owned(),
        format!("/../../../../{relative}"),
        format!("/proc/1/root/{relative}"),
        format!("/proc/1/cwd/{relative}"),
        format!("/proc/self/root/../{relative}"),
        format!("/host/{relative}"),
        format!("/mnt/{relative}"),
    ] {
        log.attempt("read", path.clone(), read(&path));
    }
    let link = "/tmp/link";
    let linked = std::os::unix::fs::symlink(host_file, link).and_then(|()| fs::read(link));
    log.attempt("read through a link", host_file, told(linked.map(drop)));
    for kind in ["9p", "virtiofs", "nfs", "cifs", "fuse"] {
        let answer = nix::mount::mount(
            Some("host"),
            "/tmp",
            Some(kind),
            nix::mount::MsFlags::empty(),
            None::<&str>,
        );
        log.attempt("mount", kind, answer.map(|()| 0));
    }
    outside_the_disk(&mut log);
    // Stays in memory until the host has searched it.
    println!("{secret}");
    std::hint::black_box(secret);
    log.print()
}

/// The disk begins and ends where it should, whatever is asked of it.
fn outside_the_disk(log: &mut Log) {
    let Ok(mut disk) = File::options().read(true).open(DISK) else {
        log.fact("disk", "cannot be opened");
        return;
    };
    log.fact("disk", "opened");
    let end = disk.seek(SeekFrom::End(0)).unwrap_or_default();
    log.fact("disk_bytes", end);
    let mut sector = [0; SECTOR as usize];
    log.control("read the disk", told(disk.read_exact_at(&mut sector, 0)));
    for offset in [end, end + SECTOR, end + (1 << 20), 1 << 40, i64::MAX as u64 - 4095] {
        let answer = disk.read_exact_at(&mut sector, offset);
        log.attempt("read beyond the disk", offset.to_string(), told(answer));
    }
}

/// All the way to the disk.
fn write(path: &str, text: &str) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn read(path: &str) -> Answer {
    let mut text = Vec::new();
    told(File::open(path).and_then(|mut file| file.read_to_end(&mut text)).map(drop))
}

fn told(result: std::io::Result<()>) -> Answer {
    result.map(|()| 0).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or_default()))
}
