//! What the tests of several stores need.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Says to a test that it runs in a child process, and where.
const CHILD: &str = "BSM_STORE_TEST_CHILD";

/// Permission bits of a file.
pub fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o777
}

/// A directory that is not in memory, which the usual place for temporary files may be.
pub fn on_disk() -> TempDir {
    let program = std::env::current_exe().unwrap();
    tempfile::tempdir_in(program.parent().unwrap()).unwrap()
}

/// Runs on one thread, so that what is polled when is the test's choice.
pub fn single() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

/// Runs on several threads.
pub fn several() -> Runtime {
    Builder::new_multi_thread().worker_threads(4).build().unwrap()
}

/// A command that runs the named test of this program again, as a child that uses `directory`.
pub fn child(module: &str, test: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments(module, test)).env(CHILD, directory);
    command
}

/// Like [`child`], with the signal for files that grow too long ignored.
pub fn child_that_survives_long_files(module: &str, test: &str, directory: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(arguments(module, test))
        .env(CHILD, directory);
    command
}

fn arguments(module: &str, test: &str) -> [String; 3] {
    let module = module.split_once("::").unwrap().1;
    [format!("{module}::{test}"), "--exact".into(), "--nocapture".into()]
}

/// In a child: the directory to use.
pub fn child_directory() -> Option<std::path::PathBuf> {
    std::env::var_os(CHILD).map(Into::into)
}

/// In a child: tells the parent something, with one write. Standard output is the test harness's.
pub fn tell_parent(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Runs a child to its end and wants it to succeed.
pub fn expect_success(mut command: Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}\n{said}", String::from_utf8_lossy(&output.stdout));
}
