//! The nested machine: a real `/dev/kvm` for hosts whose own KVM cannot boot Linux.
//!
//! QEMU emulates an AMD processor with SVM in software and boots Debian's kernel, which offers
//! a hardware-style KVM. The host's root file system is mounted inside, so programs run at the
//! very paths where they were built. Nothing here needs privileges or an accelerator.

mod bzimage;
mod command;
mod cpio;
mod emulator;
mod execute;
pub mod job;
mod kernel;
mod modules;
pub mod pass_on;

mod inside;
mod qemu;
mod queue;
mod repeat;
mod runner;
mod wire;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

pub use self::command::{NestedArgs, run as run_command};
use self::cpio::Archive;
use self::emulator::{BOOT_LIMIT, Emulator, NestedError, SILENCE_LIMIT};
pub use self::inside::run as run_inside;
use self::job::{Job, Observer};
use self::kernel::KernelPackage;
use self::qemu::Qemu;
pub use self::queue::Queue;
pub use self::runner::{BENCH_VCPUS, Choice, On, Runner, TEST_VCPUS};
use crate::{packages, progress, workspace};

/// Programs the machine is made of and run with.
const PACKAGES: &[&str] = &["qemu-system-x86", "busybox-static", "xz-utils"];
const BUSYBOX: &str = "/bin/busybox";
const INIT: &str = include_str!("nested/init.sh");
/// Raised where the code here builds something else from the same inputs.
const RECIPE: &str = "1";
/// Directories of the host that the machine covers with its own.
const COVERED: &[&str] = &["/dev", "/proc", "/run", "/sys"];

/// A prepared machine: a kernel and an initramfs on disk.
#[derive(Debug)]
pub struct NestedMachine {
    processors: u32,
    directory: PathBuf,
    qemu: Qemu,
    kernel_version: String,
}

impl NestedMachine {
    /// Builds the machine's files, or takes those built from the same inputs before.
    pub fn prepare(processors: u32) -> Result<Self> {
        packages::ensure(PACKAGES)?;
        let qemu = Qemu::prepare()?;
        let package =
            KernelPackage::resolve().context("looking for the nested machine's kernel")?;
        let busybox = fs::read(BUSYBOX).with_context(|| format!("reading {BUSYBOX}"))?;
        let kernel_version = format!("{} {}", package.name, package.version);
        let digest = digest_of(&[
            RECIPE.as_bytes(),
            kernel_version.as_bytes(),
            package.sha256.as_bytes(),
            &busybox,
            INIT.as_bytes(),
            modules::WANTED.join(" ").as_bytes(),
        ]);
        let parent = workspace::cache_dir()?.join("nested");
        let directory = parent.join(digest);
        if !directory.is_dir() {
            fs::create_dir_all(&parent)
                .with_context(|| format!("creating {}", parent.display()))?;
            let step = progress::step(format!("Building the nested machine with {kernel_version}"));
            build(&package, &busybox, &parent, &directory)
                .with_context(|| format!("building the nested machine with {kernel_version}"))?;
            step.done();
        }
        Ok(Self { processors, directory, qemu, kernel_version })
    }

    /// Package and version of the machine's kernel.
    pub fn kernel_version(&self) -> &str {
        &self.kernel_version
    }

    /// Runs jobs of the queue one after the other until none waits, if need be in more than one
    /// machine. Fails where not all that were taken came to an end; what a job that did end says is
    /// the observer's business.
    pub fn run(&self, queue: &Queue, limit: Duration, observer: &mut dyn Observer) -> Result<()> {
        let deadline = Instant::now() + limit;
        let logs = Logs::create()?;
        for job in queue.jobs() {
            let program = job.argv.first().map_or(Path::new(""), Path::new);
            for path in [program, &job.directory, logs.path()] {
                refuse_covered(path)?;
            }
        }
        // A copy, because cargo may replace this program's file while it runs.
        let runner = logs.path().join("runner");
        fs::copy("/proc/self/exe", &runner).context("copying this program")?;
        let mut machines = 0;
        let result = repeat::run(queue, observer, |observer, running| {
            machines += 1;
            let left = deadline.saturating_duration_since(Instant::now());
            let own = logs.path().join(machines.to_string());
            self.run_once(queue, left, &runner, own, observer, running)
        });
        if result.is_err() || machines > 1 {
            // What was said about the machines names the logs.
            logs.keep(&runner)?;
        }
        Ok(result?)
    }

    /// Runs the jobs in one machine, whose files go to the directory `logs`.
    fn run_once(
        &self,
        queue: &Queue,
        limit: Duration,
        runner: &Path,
        logs: PathBuf,
        observer: &mut dyn Observer,
        running: &mut Option<usize>,
    ) -> Result<(), NestedError> {
        let initrd = logs.join("initrd.cpio");
        fs::create_dir(&logs)
            .context("creating a directory for the machine's logs")
            .and_then(|()| self.write_initrd(&initrd, runner, queue.jobs()))
            .map_err(|e| NestedError::Files(format!("{e:#}")))?;
        let emulator = Emulator {
            program: self.qemu.program.clone(),
            processors: self.processors,
            firmware: self.qemu.firmware.clone(),
            kernel: self.directory.join("vmlinux"),
            initrd: initrd.clone(),
            logs,
            boot_limit: BOOT_LIMIT,
            silence_limit: SILENCE_LIMIT,
        };
        let result = match emulator.run(queue, limit, observer, running) {
            Err(e @ NestedError::NotBooted { .. }) => {
                eprintln!("{e}\nNothing ran in it yet, so it is started once more.");
                emulator.run(queue, limit, observer, running)
            }
            result => result,
        };
        // It is large and says nothing; where it cannot be removed now it goes with the rest.
        let _ = fs::remove_file(&initrd);
        result
    }

    /// The prepared initramfs and behind it a small one with this run's program and jobs.
    fn write_initrd(&self, path: &Path, runner: &Path, jobs: &[Job]) -> Result<()> {
        let prepared = self.directory.join("initramfs.cpio");
        let mut bytes =
            fs::read(&prepared).with_context(|| format!("reading {}", prepared.display()))?;
        let runner = runner.to_str().context("this program's path is no UTF-8")?;
        let mut archive = Archive::default();
        archive.file("runner", 0o644, runner.as_bytes());
        archive.file("jobs.json", 0o644, &serde_json::to_vec(jobs)?);
        bytes.extend(archive.finish());
        fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
    }
}

/// The directory of a run's logs, which goes with this unless it is kept.
struct Logs(tempfile::TempDir);

impl Logs {
    fn create() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("nested-").tempdir();
        Ok(Self(directory.context("creating a directory for the nested machine's logs")?))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Keeps all but the program.
    fn keep(self, runner: &Path) -> Result<()> {
        let kept = self.0.keep();
        fs::remove_file(runner).with_context(|| format!("clearing {}", kept.display()))
    }
}

/// Builds in a scratch directory, which becomes `directory` only when it is complete.
fn build(package: &KernelPackage, busybox: &[u8], parent: &Path, directory: &Path) -> Result<()> {
    let scratch = tempfile::tempdir_in(parent).context("creating a scratch directory")?;
    let finished = scratch.path().join("finished");
    fs::create_dir(&finished).context("creating a scratch directory")?;
    let kernel = package.fetch(scratch.path())?;
    let mut archive = Archive::default();
    for path in ["bin", "dev", "host", "modules", "proc", "sys"] {
        archive.directory(path);
    }
    archive.file("bin/busybox", 0o755, busybox);
    archive.file("init", 0o755, INIT.as_bytes());
    for (index, module) in kernel.modules.iter().enumerate() {
        // Numbered, because the shell lists files in alphabetical order.
        archive.file(&format!("modules/{index:02}-{}.ko", module.name), 0o644, &module.content);
    }
    fs::write(finished.join("vmlinux"), kernel.vmlinux).context("writing the kernel")?;
    fs::write(finished.join("initramfs.cpio"), archive.finish())
        .context("writing the initramfs")?;
    let version = format!("{} {}\n", package.name, package.version);
    fs::write(finished.join("kernel-version"), version).context("writing the kernel's version")?;
    match fs::rename(&finished, directory) {
        // Another process built the same at the same time.
        Err(_) if directory.is_dir() => Ok(()),
        result => result.context("moving the nested machine's files into place"),
    }
}

fn refuse_covered(path: &Path) -> Result<()> {
    if let Some(covered) = COVERED.iter().find(|covered| path.starts_with(covered)) {
        bail!(
            "{} is not visible in the nested machine, which has a {covered} of its own: put the \
             build directory elsewhere",
            path.display()
        );
    }
    Ok(())
}

/// Digest of a list of inputs, each preceded by its length so that none runs into the next.
fn digest_of(inputs: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for input in inputs {
        hasher.update((input.len() as u64).to_be_bytes());
        hasher.update(input);
    }
    let mut hex = String::new();
    for byte in hasher.finalize().iter().take(16) {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// Runs a program without input and returns what it printed; its complaints are the error.
fn output_of(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .with_context(|| format!("starting {name}"))?;
    ensure!(
        output.status.success(),
        "{name} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8(output.stdout).with_context(|| format!("{name} printed no UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_counts_in_the_digest() {
        let digest = digest_of(&[b"ab", b"c"]);
        assert_eq!(digest, digest_of(&[b"ab", b"c"]));
        assert_ne!(digest, digest_of(&[b"a", b"bc"]));
        assert_ne!(digest, digest_of(&[b"ab", b"d"]));
    }

    #[test]
    fn covered_directories_are_refused() {
        assert!(refuse_covered(Path::new("/run/build/tests")).is_err());
        assert!(refuse_covered(Path::new("/runs/build/tests")).is_ok());
    }

    #[test]
    fn failing_programs_are_reported_with_their_words() {
        let error = output_of(Command::new("sh").args(["-c", "echo no >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("no"), "{error}");
    }
}
