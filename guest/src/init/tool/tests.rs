use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use guest::framing::{MAX_FRAME_BYTES, encode_frame};
use guest::output;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::wait::waitpid;
use nix::unistd::pipe2;
use tempfile::TempDir;

use super::*;

const PLENTY: usize = usize::MAX;

/// A tool that is an ordinary process of this host: no cgroup, no sandbox.
struct Started {
    tool: Tool,
    error_end: File,
    directory: TempDir,
}

fn reading_end(stream: impl Into<OwnedFd>) -> File {
    let stream = stream.into();
    fcntl(stream.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    File::from(stream)
}

#[expect(clippy::zombie_processes, reason = "the tests wait for it by its id, like PID 1")]
fn start(script: &str) -> Started {
    let mut child = Command::new("/bin/sh")
        .args(["-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (start_error, error_end) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let tool = Tool {
        connection: 1,
        command_id: "c".into(),
        pid: Pid::from_raw(i32::try_from(child.id()).unwrap()),
        stdout: Stream::new(reading_end(child.stdout.take().unwrap()), STDOUT_TAG, 100),
        stderr: Stream::new(reading_end(child.stderr.take().unwrap()), STDERR_TAG, 100),
        start_error: Some(reading_end(start_error)),
        failure: None,
        cgroup: Cgroup::pretend(directory.path()),
        chain: Chain::new("c"),
        started: Instant::now(),
        deadline: Instant::now(),
        timed_out: false,
    };
    Started { tool, error_end: File::from(error_end), directory }
}

/// The result, after checking that the chunks before it add up to its hash and its output.
fn result(messages: &[GuestMessage]) -> ToolResult {
    let [chunks @ .., GuestMessage::ToolResult(result)] = messages else { panic!("{messages:?}") };
    let (mut chain, mut stdout, mut stderr) = (Chain::new("c"), Vec::new(), Vec::new());
    for (index, chunk) in chunks.iter().enumerate() {
        let GuestMessage::EvidenceChunk(chunk) = chunk else { panic!("{chunk:?}") };
        let data = STANDARD.decode(&chunk.chunk_data).unwrap();
        assert_eq!(chunk.seq, chain.append(&data));
        assert_eq!(chunk.chunk_size, data.len() as u64);
        assert_eq!(chunk.is_terminal, index == chunks.len() - 1);
        match data.split_first() {
            Some((&STDOUT_TAG, rest)) => stdout.extend_from_slice(rest),
            Some((&STDERR_TAG, rest)) => stderr.extend_from_slice(rest),
            Some((tag, _)) => panic!("tag {tag}"),
            None => assert!(chunk.is_terminal),
        }
    }
    assert_eq!(result.evidence_hash, chain.hash());
    assert_eq!(output::decode(result.stdout.clone(), result.stdout_encoding).unwrap(), stdout);
    assert_eq!(output::decode(result.stderr.clone(), result.stderr_encoding).unwrap(), stderr);
    result.clone()
}

fn end(started: Started, room: usize) -> ToolResult {
    let status = waitpid(started.tool.pid, None).unwrap();
    let (messages, _) = started.tool.finish(status, room);
    result(&messages)
}

#[test]
fn output_and_exit_code_are_the_tools_own() {
    let result = end(start("printf out; printf err >&2; exit 3"), PLENTY);
    assert_eq!((result.exit_code, result.reason), (3, None));
    assert_eq!((result.stdout.as_str(), result.stderr.as_str()), ("out", "err"));
    assert_eq!((result.stdout_bytes, result.stdout_truncated), (3, false));
}

#[test]
fn no_output_still_has_evidence() {
    let result = end(start(":"), PLENTY);
    assert_eq!((result.exit_code, result.stdout.as_str()), (0, ""));
    assert!(result.evidence_hash.starts_with("sha256:"));
}

#[test]
fn a_deadline_reaches_a_child_that_is_not_in_its_cgroup_yet() {
    // The pretended cgroup kills no process, so this is that moment, held still.
    let mut started = start("printf partial; sleep 600");
    while started.tool.kept() == 0 {
        started.tool.read(Which::Stdout, PLENTY);
    }
    started.tool.time_out();
    assert_eq!(started.tool.deadline(), None);
    let status = waitpid(started.tool.pid, None).unwrap();
    assert!(matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)));
    let (messages, _) = started.tool.finish(status, PLENTY);
    let Some(GuestMessage::ToolResult(result)) = messages.last() else { panic!() };
    assert_eq!((result.exit_code, result.reason), (137, Some(ResultReason::DeadlineExceeded)));
    assert_eq!(result.stdout, "partial");
}

#[test]
fn a_late_success_is_still_late() {
    let mut started = start("exit 0");
    started.tool.timed_out = true;
    assert_eq!(end(started, PLENTY).exit_code, DEADLINE);
}

#[test]
fn a_signal_is_told_from_a_lack_of_memory() {
    let result = end(start("kill -SEGV $$"), PLENTY);
    assert_eq!((result.exit_code, result.reason), (139, Some(ResultReason::Signal)));
    let started = start("kill -KILL $$");
    fs::write(started.directory.path().join("memory.events"), "oom_kill 1\n").unwrap();
    let result = end(started, PLENTY);
    assert_eq!((result.exit_code, result.reason), (137, Some(ResultReason::OutOfMemory)));
}

#[test]
fn what_a_child_says_before_it_ends_is_not_lost() {
    // The writing end is still open when the parent reads, as it is while the child is ending.
    let mut started = start("exit 254");
    started.error_end.write_all(b"unshare: EPERM").unwrap();
    started.tool.read_start_error();
    let result = end(started, PLENTY);
    assert_eq!((result.exit_code, result.reason), (254, Some(ResultReason::StartFailed)));
    assert_eq!(result.message.as_deref(), Some("unshare: EPERM"));
}

#[test]
fn output_beyond_either_limit_is_cut_and_counted() {
    let result = end(start("head -c 250 /dev/zero | tr '\\0' a"), PLENTY);
    assert_eq!(
        (result.stdout.len(), result.stdout_bytes, result.stdout_truncated),
        (100, 250, true)
    );
    let result = end(start("head -c 90 /dev/zero | tr '\\0' a; printf 1234567890 >&2"), 95);
    assert_eq!((result.stdout.len(), result.stdout_truncated), (90, false));
    assert_eq!((result.stderr.as_str(), result.stderr_truncated), ("12345", true));
}

#[test]
fn a_reason_that_quotes_a_whole_frame_can_still_be_sent() {
    let quoted = "\u{1}".repeat(MAX_FRAME_BYTES - 100);
    let messages = not_started("c", UNKNOWN, ResultReason::UnknownTool, quoted);
    for message in &messages {
        assert!(encode_frame(message).unwrap().len() < 8192);
    }
    assert_eq!(result(&messages).exit_code, UNKNOWN);
}
