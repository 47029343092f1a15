//! Runs targets, some at a time, each in a process of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::outcome::Outcome;
use super::{GRACE, NEEDS_KVM, build_program};
use crate::progress;

/// No input may take longer, in seconds. Far more than any needs: a machine with much to do is slow.
const INPUT_SECONDS: u64 = 60;
/// Most memory of a target.
const MEMORY_MIB: u64 = 2048;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The program with all targets, and where it keeps what it finds.
pub struct Fuzzer {
    program: PathBuf,
    directory: PathBuf,
    /// What chance begins with; anything when there is none.
    pub seed: Option<u32>,
}

impl Fuzzer {
    pub fn build() -> Result<Self> {
        let workspace = crate::workspace::root()?;
        let directory = crate::workspace::target_dir()?.join("fuzz");
        let step = progress::step("Building the fuzz targets");
        crate::packages::ensure(&["g++"])?;
        let program = build_program(&workspace)?;
        step.done();
        Ok(Self { program, directory, seed: None })
    }

    /// Runs every target for `seconds`, `jobs` at a time.
    pub fn run_all(&self, targets: &[String], seconds: u64, jobs: Option<usize>) -> Vec<Outcome> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let waiting = Mutex::new(targets.iter());
        let outcomes = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..jobs.unwrap_or(processors).max(1) {
                scope.spawn(|| {
                    loop {
                        let next = lock(&waiting).next();
                        let Some(target) = next else { break };
                        let outcome = self.run_or_say_why(target, seconds);
                        lock(&outcomes).push(outcome);
                    }
                });
            }
        });
        let mut outcomes = outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        outcomes.sort_by(|a, b| a.target.cmp(&b.target));
        outcomes
    }

    fn run_or_say_why(&self, target: &str, seconds: u64) -> Outcome {
        if NEEDS_KVM.contains(&target) && !Path::new("/dev/kvm").exists() {
            return Outcome::skipped(target, "there is no /dev/kvm");
        }
        let step = progress::step(format!("Fuzzing {target}"));
        match self.run(target, seconds) {
            Ok(outcome) => {
                if !outcome.has_failed() {
                    step.done();
                }
                outcome
            }
            Err(error) => Outcome {
                target: target.to_owned(),
                found: Some(format!("{error:#}")),
                ..Outcome::default()
            },
        }
    }

    fn run(&self, target: &str, seconds: u64) -> Result<Outcome> {
        let place = self.directory.join(target);
        let make = |name: &str| -> Result<PathBuf> {
            let path = place.join(name);
            fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
            Ok(path)
        };
        let (corpus, seeds, found) = (make("corpus")?, make("seeds")?, make("found")?);
        let log = place.join("log");
        let before = files(&found)?;
        let mut command = self.command(target);
        command
            .env("BSM_FUZZ_SEEDS", &seeds)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={INPUT_SECONDS}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
            .arg(format!("-artifact_prefix={}/", found.display()))
            .arg("-print_final_stats=1")
            .args([&corpus, &seeds])
            .stderr(File::create(&log).with_context(|| format!("making {}", log.display()))?);
        if let Some(seed) = self.seed {
            command.arg(format!("-seed={seed}"));
        }
        let status = wait(command, Duration::from_secs(seconds) + GRACE)?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        let mut outcome = Outcome::read(target, &text);
        if status.is_none_or(|status| !status.success()) {
            outcome.inputs = files(&found)?.into_iter().filter(|f| !before.contains(f)).collect();
            let ended = status.map_or("it did not end".to_owned(), |status| status.to_string());
            outcome.found = Some(format!("{} ({ended}; see {})", reason(&text), log.display()));
        }
        Ok(outcome)
    }

    /// Gives one file to a target, with all that is printed shown.
    pub fn reproduce(&self, target: &str, input: &Path) -> Result<()> {
        let status = self.command(target).arg(input).status().context("starting the target")?;
        ensure!(status.success(), "{target} does not come through {}: {status}", input.display());
        Ok(())
    }

    fn command(&self, target: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("BSM_FUZZ_TARGET", target)
            // What was freed is watched, but not 256 MiB of it.
            .env("ASAN_OPTIONS", "quarantine_size_mb=16")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How it ended; `None` when it had to be killed.
fn wait(mut command: Command, limit: Duration) -> Result<Option<ExitStatus>> {
    let mut child = command.spawn().context("starting a fuzz target")?;
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = directory.read_dir()?;
    let mut files: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    Ok(files)
}

/// The line that says most about a failure.
fn reason(log: &str) -> &str {
    let telling = ["panicked at", "ERROR: ", "SUMMARY: "];
    let mut lines = telling.iter().filter_map(|word| log.lines().find(|line| line.contains(word)));
    lines.next().unwrap_or("it failed").trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_does_not_end_is_ended() {
        assert!(wait(shell("exec sleep 60"), Duration::ZERO).unwrap().is_none());
        let status = wait(shell("exit 3"), Duration::from_secs(60)).unwrap().unwrap();
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn a_panic_says_more_than_the_summary() {
        let log = "x\nSUMMARY: libFuzzer: deadly signal\nthread 'a' panicked at b.rs:1:2:\n";
        assert!(reason(log).contains("panicked"));
        assert_eq!(reason("=1=ERROR: AddressSanitizer: x"), "=1=ERROR: AddressSanitizer: x");
    }

    #[test]
    fn a_target_that_crashes_is_told_with_its_input() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        let script = "#!/bin/sh\nfor a; do case $a in -artifact_prefix=*) p=${a#*=};; esac; done\n\
            echo x > ${p}crash-1; echo 'ERROR: oh no' >&2; exit 77\n";
        fs::write(&program, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&program, mode).unwrap();
        let fuzzer = Fuzzer { program, directory: directory.path().join("fuzz"), seed: None };
        let outcomes = fuzzer.run_all(&["some".to_owned()], 1, Some(1));
        assert!(outcomes[0].has_failed());
        assert!(outcomes[0].inputs[0].ends_with("found/crash-1"), "{outcomes:?}");
        assert!(outcomes[0].trouble().unwrap().contains("oh no"));
    }
}
