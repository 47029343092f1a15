use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::nested::job::{Ended, Finished, Job, Stream};

/// A shell script in QEMU's place. Its standard input is the port.
struct Stand {
    directory: TempDir,
    emulator: Emulator,
}

impl Stand {
    fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("emulator");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let emulator = Emulator {
            program,
            processors: 1,
            firmware: Vec::new(),
            kernel: "kernel".into(),
            initrd: "initrd".into(),
            logs: directory.path().to_owned(),
            boot_limit: LONG,
            silence_limit: LONG,
        };
        Self { directory, emulator }
    }

    /// A stand-in that sends `messages` and then does what `script` says.
    fn sending(messages: &[Message], script: &str) -> Self {
        let mut bytes = Vec::new();
        for message in messages {
            wire::send(&mut bytes, message).unwrap();
        }
        let stand = Self::new(&format!("cat \"$(dirname \"$0\")/messages\" >&0\n{script}"));
        fs::write(stand.directory.path().join("messages"), bytes).unwrap();
        stand
    }

    fn run(&self, limit: Duration) -> (Result<(), NestedError>, Record) {
        let job = Job {
            label: "the job".into(),
            argv: vec!["/bin/true".into()],
            directory: "/".into(),
            environment: [].into(),
        };
        let mut record = Record::default();
        let result = self.emulator.run(&Queue::new(vec![job]), limit, &mut record, &mut None);
        (result, record)
    }

    /// Whether the process whose id the script wrote to `pid` is gone.
    fn is_gone(&self) -> bool {
        let pid = fs::read_to_string(self.directory.path().join("pid")).unwrap();
        !Path::new("/proc").join(pid.trim()).exists()
    }
}

#[derive(Default)]
struct Record {
    kvm: String,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    finished: Vec<Finished>,
}

impl Observer for Record {
    fn ready(&mut self, kvm: &str) {
        kvm.clone_into(&mut self.kvm);
    }

    fn output(&mut self, _: usize, stream: Stream, bytes: &[u8]) {
        match stream {
            Stream::Stdout => self.stdout.extend(bytes),
            Stream::Stderr => self.stderr.extend(bytes),
        }
    }

    fn finished(&mut self, _: usize, finished: &Finished) {
        self.finished.push(finished.clone());
    }
}

const LONG: Duration = Duration::from_secs(60);
const HANG: &str = "echo $$ > \"$(dirname \"$0\")/pid\"; exec sleep 1000";

fn ready() -> Message {
    Message::Notice(Notice::Ready { kvm: "fine".into() })
}

fn started() -> Message {
    Message::Notice(Notice::Started { index: 0 })
}

#[test]
fn output_and_status_pass_through_and_the_emulator_is_ended() {
    let finished = Finished { ended: Ended::Exited(7), took: Duration::from_micros(5) };
    let stand = Stand::sending(
        &[
            ready(),
            started(),
            Message::Output(Stream::Stdout, vec![0, 255, b'\n']),
            Message::Output(Stream::Stderr, b"complaint".to_vec()),
            Message::Notice(Notice::Finished { index: 0, finished: finished.clone() }),
            Message::Notice(Notice::Done),
        ],
        "exec sleep 1000",
    );
    let (result, record) = stand.run(LONG);
    result.unwrap();
    assert_eq!(record.kvm, "fine");
    assert_eq!(record.stdout, [0, 255, b'\n']);
    assert_eq!(record.stderr, b"complaint");
    assert_eq!(record.finished, [finished]);
}

#[test]
fn as_many_processors_are_emulated_as_are_asked_for() {
    let mut stand = Stand::new("exit 1");
    stand.emulator.processors = 3;
    let arguments = stand.emulator.arguments();
    assert!(arguments.windows(2).any(|pair| pair == ["-smp", "3"]), "{arguments:?}");
}

#[test]
fn hang_is_ended_at_the_limit_and_located() {
    let stand = Stand::sending(&[ready(), started()], HANG);
    fs::write(stand.emulator.console(), "BUG: soft lockup\n").unwrap();
    let (result, _) = stand.run(Duration::from_secs(3));
    let error = result.unwrap_err();
    assert!(matches!(error, NestedError::TimedOut { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("while running the job"), "{text}");
    assert!(text.contains("BUG: soft lockup"), "{text}");
    assert!(stand.is_gone());
}

#[test]
fn a_machine_without_signs_of_life_stands_still() {
    let script = "echo $$ > \"$(dirname \"$0\")/pid\"; exec sleep 1000";
    let mut stand = Stand::sending(&[ready(), started()], script);
    stand.emulator.silence_limit = Duration::from_secs(1);
    let error = stand.run(LONG).0.unwrap_err();
    assert!(matches!(error, NestedError::StoodStill { .. }), "{error}");
    assert!(error.to_string().contains("while running the job"), "{error}");
    assert!(stand.is_gone());
}

#[test]
fn signs_of_life_are_heard() {
    let mut stand = Stand::sending(
        &[ready(), started()],
        "for i in 1 2 3 4; do sleep 0.5; cat \"$(dirname \"$0\")/alive\" >&0; done; exit 5",
    );
    let mut alive = Vec::new();
    wire::send(&mut alive, &Message::Notice(Notice::Alive)).unwrap();
    fs::write(stand.directory.path().join("alive"), alive).unwrap();
    stand.emulator.silence_limit = Duration::from_millis(1500);
    let error = stand.run(LONG).0.unwrap_err();
    assert!(matches!(error, NestedError::EndedEarly { .. }), "{error}");
}

#[test]
fn a_stuck_job_is_shown_with_its_processes() {
    let stuck = Message::Notice(Notice::Stuck { index: 0, report: "  | waits in futex".into() });
    let stand = Stand::sending(&[ready(), started(), stuck], HANG);
    let text = stand.run(LONG).0.unwrap_err().to_string();
    assert!(text.contains("while running the job") && text.contains("futex"), "{text}");
}

#[test]
fn hang_in_boot_is_told_apart_and_needs_no_patience() {
    let mut stand = Stand::new(HANG);
    stand.emulator.boot_limit = Duration::from_secs(1);
    let error = stand.run(LONG).0.unwrap_err();
    assert!(matches!(error, NestedError::NotBooted { .. }), "{error}");
    assert!(stand.is_gone());
}

#[test]
fn boot_limit_ends_with_the_boot() {
    let mut stand = Stand::sending(&[ready(), started()], "sleep 2; exit 0");
    stand.emulator.boot_limit = Duration::from_secs(1);
    let error = stand.run(LONG).0.unwrap_err();
    assert!(matches!(error, NestedError::EndedEarly { .. }), "{error}");
}

#[test]
fn early_end_is_an_error_with_the_emulators_words() {
    let stand = Stand::new("echo no such machine >&2; exit 3");
    let (result, _) = stand.run(LONG);
    let text = result.unwrap_err().to_string();
    assert!(text.contains("exit status: 3"), "{text}");
    assert!(text.contains("no such machine"), "{text}");
}

#[test]
fn end_amid_a_job_is_an_error() {
    let (result, record) = Stand::sending(&[ready(), started()], "exit 0").run(LONG);
    let text = result.unwrap_err().to_string();
    assert!(text.contains("while running the job"), "{text}");
    assert!(record.finished.is_empty());
}

#[test]
fn failed_self_check_is_an_error() {
    let message = Message::Notice(Notice::Unusable { why: "no /dev/kvm".into() });
    let (result, _) = Stand::sending(&[message], "exec sleep 1000").run(LONG);
    let error = result.unwrap_err();
    assert!(matches!(&error, NestedError::Unusable { why, .. } if why == "no /dev/kvm"));
}

#[test]
fn garbage_on_the_port_is_an_error() {
    let (result, _) = Stand::new("echo garbage >&0; exec sleep 1000").run(LONG);
    assert!(matches!(result.unwrap_err(), NestedError::Damaged { .. }));
}

#[test]
fn missing_emulator_names_its_package() {
    let mut stand = Stand::new("");
    stand.emulator.program = "/nonexistent/qemu".into();
    let text = stand.run(LONG).0.unwrap_err().to_string();
    assert!(text.contains("qemu-system-x86"), "{text}");
}

#[test]
fn commas_in_paths_survive_option_parsing() {
    assert_eq!(escape_commas(Path::new("/a,b")), "/a,,b");
}
