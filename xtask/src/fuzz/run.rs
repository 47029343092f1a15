//! Runs targets, some at a time, each in a process of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::outcome::TargetOutcome;
use super::{Build, GRACE, LONGEST, Limits, NEEDS_KVM, build_program};
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
    pub fn build(how: Build) -> Result<Self> {
        let workspace = crate::workspace::root()?;
        let directory = crate::workspace::target_dir()?.join("fuzz");
        let step = progress::step("Building the fuzz targets");
        crate::packages::ensure(&["g++"])?;
        let program = build_program(&workspace, how)?;
        step.done();
        Ok(Self { program, directory, seed: None })
    }

    /// Runs every target within `limits`, `jobs` at a time.
    pub fn run_all(
        &self,
        targets: &[String],
        limits: Limits,
        jobs: Option<usize>,
    ) -> Vec<TargetOutcome> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let waiting = Mutex::new(targets.iter());
        let outcomes = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..jobs.unwrap_or(processors).max(1) {
                scope.spawn(|| {
                    loop {
                        let next = lock(&waiting).next();
                        let Some(target) = next else { break };
                        let outcome = self.run_or_say_why(target, limits);
                        lock(&outcomes).push(outcome);
                    }
                });
            }
        });
        let mut outcomes = outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        outcomes.sort_by(|a, b| a.target.cmp(&b.target));
        outcomes
    }

    fn run_or_say_why(&self, target: &str, limits: Limits) -> TargetOutcome {
        if NEEDS_KVM.contains(&target) && !Path::new("/dev/kvm").exists() {
            return TargetOutcome::skipped(target, "there is no /dev/kvm");
        }
        let step = progress::step(format!("Fuzzing {target}"));
        match self.run(target, limits) {
            Ok(outcome) => {
                if !outcome.has_failed() {
                    step.done();
                }
                outcome
            }
            Err(error) => TargetOutcome {
                target: target.to_owned(),
                found: Some(format!("{error:#}")),
                ..TargetOutcome::default()
            },
        }
    }

    /// Runs one target.
    pub fn run(&self, target: &str, limits: Limits) -> Result<TargetOutcome> {
        let place = self.directory.join(target);
        let make = |name: &str| -> Result<PathBuf> {
            let path = place.join(name);
            fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
            Ok(path)
        };
        let (corpus, seeds, found) = (make("corpus")?, make("seeds")?, make("found")?);
        let log = place.join("log");
        let mut command = self.command(target);
        command
            .env("BSM_FUZZ_SEEDS", &seeds)
            // Zero is no limit.
            .arg(format!("-max_total_time={}", limits.seconds.unwrap_or(0)))
            .arg(format!("-runs={}", limits.executions.map_or(-1, i64::from)))
            // No other process adds to the corpus.
            .arg("-reload=0")
            .arg(format!("-timeout={INPUT_SECONDS}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
            .arg(format!("-artifact_prefix={}/", found.display()))
            .arg("-print_final_stats=1")
            .args([&corpus, &seeds])
            .stderr(File::create(&log).with_context(|| format!("making {}", log.display()))?);
        if let Some(seed) = self.seed {
            command.arg(format!("-seed={seed}"));
        }
        if let Some((_, bytes)) = LONGEST.iter().find(|(name, _)| *name == target) {
            command.arg(format!("-max_len={bytes}"));
        }
        let longest = limits.seconds.map(|seconds| Duration::from_secs(seconds) + GRACE);
        let status = wait(command, longest)?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        let mut outcome = TargetOutcome::read(target, &text);
        if status.is_none_or(|status| !status.success()) {
            outcome.inputs = written(&text);
            let ended = status.map_or("it did not end".to_owned(), |status| status.to_string());
            outcome.found = Some(format!("{} ({ended}; see {})", reason(&text), log.display()));
        }
        Ok(outcome)
    }

    /// Gives one file to a target; what is printed goes to `printed`.
    pub fn reproduce(&self, target: &str, input: &Path, printed: Stdio) -> Result<()> {
        let mut command = self.command(target);
        let status = command.arg(input).stderr(printed).status().context("starting the target")?;
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
fn wait(mut command: Command, limit: Option<Duration>) -> Result<Option<ExitStatus>> {
    let mut child = command.spawn().context("starting a fuzz target")?;
    let until = limit.map(|limit| Instant::now() + limit);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// The inputs that were kept, also those that were found before.
fn written(log: &str) -> Vec<PathBuf> {
    log.lines()
        .filter_map(|line| line.split_once("Test unit written to "))
        .map(|(_, path)| PathBuf::from(path.trim()))
        .collect()
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
        assert!(wait(shell("exec sleep 60"), Some(Duration::ZERO)).unwrap().is_none());
        let status = wait(shell("exit 3"), None).unwrap().unwrap();
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn a_panic_says_more_than_the_summary() {
        let log = "x\nSUMMARY: libFuzzer: deadly signal\nthread 'a' panicked at b.rs:1:2:\n";
        assert!(reason(log).contains("panicked"));
        assert_eq!(reason("=1=ERROR: AddressSanitizer: x"), "=1=ERROR: AddressSanitizer: x");
    }

    /// A program in the place of the engine, that writes its arguments down.
    fn fuzzer(directory: &Path, script: &str) -> Fuzzer {
        let program = directory.join("program");
        let preface = "for a; do case $a in -artifact_prefix=*) p=${a#*=};; esac; done";
        let text = format!("#!/bin/sh\necho \"$@\" >$0.arguments\n{preface}\n{script}\n");
        fs::write(&program, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&program, mode).unwrap();
        Fuzzer { program, directory: directory.join("fuzz"), seed: None }
    }

    #[test]
    fn a_target_that_crashes_is_told_with_its_input_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let script = "echo x > ${p}crash-1; echo 'ERROR: oh no' >&2
            echo \"artifact_prefix=''; Test unit written to ${p}crash-1\" >&2; exit 77";
        let fuzzer = fuzzer(directory.path(), script);
        let limits = Limits { seconds: Some(1), executions: None };
        for _ in 0..2 {
            let outcomes = fuzzer.run_all(&["some".to_owned()], limits, Some(1));
            assert!(outcomes[0].has_failed());
            assert!(outcomes[0].inputs[0].ends_with("found/crash-1"), "{outcomes:?}");
            assert!(outcomes[0].inputs[0].is_file());
            assert!(outcomes[0].trouble().unwrap().contains("oh no"));
        }
    }

    #[test]
    fn limits_are_the_engines() {
        let directory = tempfile::tempdir().unwrap();
        let fuzzer = fuzzer(directory.path(), "");
        let given = |seconds, executions| {
            fuzzer.run("some", Limits { seconds, executions }).unwrap();
            let arguments = fs::read_to_string(directory.path().join("program.arguments"));
            arguments.unwrap().split_whitespace().take(2).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(given(Some(7), None), "-max_total_time=7 -runs=-1");
        assert_eq!(given(None, Some(9)), "-max_total_time=0 -runs=9");
    }
}
