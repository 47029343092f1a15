//! Runs one program and passes its output on as it comes.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, SyncSender};
use std::time::Instant;

use super::job::{Ended, Finished, Job, Stream};

/// Largest piece of output passed on at once.
const PIECE: usize = 32 * 1024;
/// Pieces read ahead of a slow receiver.
const READ_AHEAD: usize = 16;

/// Runs `job` to its end. `output` gets every byte, in order within each stream.
pub fn execute(job: &Job, mut output: impl FnMut(Stream, &[u8])) -> Finished {
    let start = Instant::now();
    let ended = match spawn_and_wait(job, &mut output) {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Ended::Exited(code),
            (None, Some(signal)) => Ended::Signalled(signal),
            (None, None) => Ended::NotStarted(format!("unknown wait status {status}")),
        },
        Err(why) => Ended::NotStarted(why),
    };
    Finished { ended, took: start.elapsed() }
}

fn spawn_and_wait(job: &Job, output: &mut impl FnMut(Stream, &[u8])) -> Result<ExitStatus, String> {
    let (program, arguments) = job.argv.split_first().ok_or("the command is empty")?;
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(&job.directory)
        .envs(&job.environment)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{program} in {}: {e}", job.directory.display()))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (sender, pieces) = mpsc::sync_channel(READ_AHEAD);
    std::thread::scope(|scope| {
        let for_stderr = sender.clone();
        scope.spawn(move || forward(stdout, Stream::Stdout, &sender));
        scope.spawn(move || forward(stderr, Stream::Stderr, &for_stderr));
        for (stream, piece) in pieces {
            output(stream, &piece);
        }
    });
    child.wait().map_err(|e| format!("waiting for {program}: {e}"))
}

fn forward(source: Option<impl Read>, stream: Stream, pieces: &SyncSender<(Stream, Vec<u8>)>) {
    let Some(mut source) = source else { return };
    let mut buffer = vec![0; PIECE];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                if pieces.send((stream, buffer[..length].to_vec())).is_err() {
                    return;
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Job {
        Job {
            label: "test".into(),
            argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
            directory: "/".into(),
            environment: [("GREETING".to_owned(), "hello".to_owned())].into(),
        }
    }

    fn run(job: &Job) -> (Vec<u8>, Vec<u8>, Ended) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let finished = execute(job, |stream, bytes| match stream {
            Stream::Stdout => stdout.extend(bytes),
            Stream::Stderr => stderr.extend(bytes),
        });
        (stdout, stderr, finished.ended)
    }

    #[test]
    fn streams_and_status_come_back() {
        let (stdout, stderr, ended) = run(&shell("printf '%s\\0' $GREETING; pwd >&2; exit 7"));
        assert_eq!(stdout, b"hello\0");
        assert_eq!(stderr, b"/\n");
        assert_eq!(ended, Ended::Exited(7));
    }

    #[test]
    fn large_output_is_complete() {
        let (stdout, _, ended) = run(&shell("head -c 3000000 /dev/zero"));
        assert_eq!(stdout.len(), 3_000_000);
        assert!(ended.is_success());
    }

    #[test]
    fn signals_are_told_from_statuses() {
        let (_, _, ended) = run(&shell("kill -9 $$"));
        assert_eq!(ended, Ended::Signalled(9));
        assert_eq!(ended.shell_status(), 137);
    }

    #[test]
    fn missing_program_is_named() {
        let mut job = shell("");
        job.argv = vec!["/nonexistent/tool".into()];
        let (_, _, ended) = run(&job);
        assert!(matches!(&ended, Ended::NotStarted(why) if why.contains("/nonexistent/tool")));
        assert!(!ended.is_success());
        assert_eq!(ended.shell_status(), 127);
    }
}
