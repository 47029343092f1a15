//! Writing: all of it, or nothing.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::*;

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_snapshot_replaces_another_one_and_only_its_owner_can_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("golden.snap");
    fs::write(&path, "old").unwrap();
    golden().save(&path).unwrap();
    assert_eq!(names(directory.path()), ["golden.snap"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    Golden::load(&path, &Expectation::default()).unwrap();
}

#[test]
fn an_error_at_any_point_leaves_the_old_one_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("golden.snap");
    fs::write(&path, "old").unwrap();
    let golden = golden();
    let whole = bytes_of(&golden).len();
    for limit in (0..whole).step_by(whole / 40) {
        let result = write::replace(&path, |file| {
            write::write(&golden, &mut Limited { inner: file, left: limit })
        });
        let Err(SnapshotError::Write { source, .. }) = result else { panic!("{result:?}") };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        assert_eq!(names(directory.path()), ["golden.snap"]);
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
    // The real thing.
    let mut full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert!(matches!(write::write(&golden, &mut full), Err(SnapshotError::Io(_))));
    let nowhere = directory.path().join("nowhere/golden.snap");
    assert!(matches!(golden.save(&nowhere), Err(SnapshotError::Write { .. })));
    assert!(matches!(golden.save(Path::new("/")), Err(SnapshotError::Write { .. })));
}

/// A disk that fills up.
struct Limited<'a> {
    inner: &'a File,
    left: usize,
}

impl Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match bytes.len().min(self.left) {
            0 if !bytes.is_empty() => Err(io::ErrorKind::StorageFull.into()),
            room => {
                let count = self.inner.write(&bytes[..room])?;
                self.left -= count;
                Ok(count)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

const FULL_DISK: &str = "BSM_TEST_FULL_DISK";

/// In a process of its own whose files cannot grow past 16 KiB.
#[test]
fn a_full_disk_leaves_the_old_one_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("golden.snap");
    fs::write(&path, "old").unwrap();
    let test = "snapshot::file::tests::saving::save_with_a_limit";
    let output = Command::new("/bin/sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" --exact \"$1\" --ignored --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(FULL_DISK, &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(names(directory.path()), ["golden.snap"]);
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
#[ignore = "half of the test above"]
fn save_with_a_limit() {
    let Some(path) = std::env::var_os(FULL_DISK) else { return };
    // First: its memory is a file, too.
    let golden = golden();
    let limit = rustix::process::Rlimit { current: Some(16 << 10), maximum: Some(16 << 10) };
    rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
    match golden.save(Path::new(&path)) {
        Err(SnapshotError::Write { source, .. }) => {
            assert_eq!(source.kind(), io::ErrorKind::FileTooLarge);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_opened_is_what_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("golden.snap");
    let golden = golden();
    golden.save(&path).unwrap();
    let file = open(&path).unwrap();
    fs::rename(&path, directory.path().join("elsewhere")).unwrap();
    fs::write(&path, "something else").unwrap();
    let loaded = Golden::load_from(file, &Expectation::default()).unwrap();
    assert_eq!(loaded.hash().unwrap(), golden.hash().unwrap());
    // The file is not needed any more, and changing it changes nothing.
    fs::write(directory.path().join("elsewhere"), "something else").unwrap();
    let fork = Machine::fork(&loaded).unwrap();
    assert_eq!(fork.differences().unwrap().to_string(), "nothing");
    assert!(loaded.memory.sealed().is_sealed().unwrap());
}

#[test]
fn what_is_not_a_file_is_refused_without_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let load = |path: &Path| Golden::load(path, &Expectation::default()).unwrap_err();
    assert!(matches!(load(directory.path()), SnapshotError::NotAFile));
    assert!(matches!(load(Path::new("/dev/null")), SnapshotError::NotAFile));
    assert!(matches!(load(&directory.path().join("nothing")), SnapshotError::Open { .. }));
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(matches!(load(&pipe), SnapshotError::NotAFile));
}
