//! The key holder against an agent that does not ask as it should.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use brainstorm_agent::store::identity::{PendingIdentity, Registration};
use protocol::Timestamp;

struct Holder {
    socket: UnixStream,
    child: Child,
}

impl Holder {
    fn start() -> Self {
        let (socket, theirs) = UnixStream::pair().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_brainstorm-agent"))
            .arg("key-holder")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        Self { socket, child }
    }

    /// One that serves an identity.
    fn ready(dir: &Path) -> Self {
        let path = dir.join("identity.json");
        let registration = Registration {
            endpoint_id: "dc4a8b19-91c5-4c30-b66d-549dc96aea71".to_owned(),
            tenant_id: "tenant-local".to_owned(),
            registered_at: "2026-01-02T03:04:05.678Z".to_owned(),
            relay: "https://relay.example".to_owned(),
        };
        PendingIdentity::prepare(&path, false).unwrap().enrolled(registration).unwrap();
        let mut holder = Self::start();
        holder.open(format!(r#"{{"identity":{:?},"endpoint":null}}"#, path.to_str().unwrap()));
        assert!(holder.answer().starts_with("{\"Ready\""));
        holder
    }

    fn open(&mut self, json: impl AsRef<[u8]>) {
        let length = u16::try_from(json.as_ref().len()).unwrap().to_be_bytes();
        self.socket.write_all(&[&length[..], json.as_ref()].concat()).unwrap();
    }

    fn answer(&mut self) -> String {
        let mut length = [0; 2];
        self.socket.read_exact(&mut length).unwrap();
        let mut json = vec![0; usize::from(u16::from_be_bytes(length))];
        self.socket.read_exact(&mut json).unwrap();
        String::from_utf8(json).unwrap()
    }

    fn ask(&mut self, millis: i64) -> [u8; 65] {
        let mut question = [0; 33];
        question[0] = 1;
        question[1..9].copy_from_slice(&millis.to_be_bytes());
        self.ask_raw(question)
    }

    fn ask_raw(&mut self, question: [u8; 33]) -> [u8; 65] {
        self.socket.write_all(&question).unwrap();
        let mut answer = [0; 65];
        self.socket.read_exact(&mut answer).unwrap();
        answer
    }

    /// Hangs up and gives the exit code.
    fn end(self) -> Option<i32> {
        let Self { socket, mut child } = self;
        drop(socket);
        child.wait().unwrap().code()
    }
}

#[test]
fn times_that_are_not_now_are_not_signed_and_asking_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut holder = Holder::ready(dir.path());
    let now = Timestamp::now().millis();
    let day = 24 * 60 * 60 * 1000;
    for millis in [now + day, now - day, 0, i64::MAX, i64::MIN] {
        assert_eq!(holder.ask(millis), [0; 65], "{millis}");
    }
    assert_eq!(holder.ask(Timestamp::now().millis())[0], 1);
    assert_eq!(holder.end(), Some(0));
}

#[test]
fn other_questions_are_refused_and_no_answer_serves_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut holder = Holder::ready(dir.path());
    for kind in [0, 4, 7, 255] {
        let mut question = [0x5a; 33];
        question[0] = kind;
        assert_eq!(holder.ask_raw(question), [0; 65], "{kind}");
    }
    let answers = [1, 2, 3].map(|kind| {
        let mut question = [0; 33];
        question[0] = kind;
        question[1..9].copy_from_slice(&Timestamp::now().millis().to_be_bytes());
        holder.ask_raw(question)
    });
    assert!(answers.iter().all(|answer| answer[0] == 1));
    assert!(answers[0] != answers[1] && answers[1] != answers[2]);
    // A MAC is no signature: its second half is empty.
    assert_eq!(answers[2][33..], [0; 32]);
    assert_eq!(holder.end(), Some(0));
}

#[test]
fn half_a_question_is_no_question() {
    let dir = tempfile::tempdir().unwrap();
    let mut holder = Holder::ready(dir.path());
    holder.socket.write_all(&[1; 5]).unwrap();
    holder.socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    holder.socket.read_to_end(&mut answer).unwrap();
    assert!(answer.is_empty());
    assert_eq!(holder.end(), Some(0));
}

#[test]
fn an_opening_of_another_form_is_refused() {
    let unknown_field = r#"{"identity":"/x","endpoint":null,"sign":"anything"}"#;
    for opening in ["", "null", "{}", "\u{0}", unknown_field, r#"{"identity":7,"endpoint":null}"#] {
        let mut holder = Holder::start();
        holder.open(opening);
        let answer = holder.answer();
        assert!(answer.starts_with("{\"Unready\""), "{opening} gave {answer}");
        assert_eq!(holder.end(), Some(1));
    }
    let mut endless = Holder::start();
    endless.socket.write_all(&[0xff; 2]).unwrap();
    assert!(endless.answer().starts_with("{\"Unready\""));
    assert_eq!(endless.end(), Some(1));
}

#[test]
fn without_an_agent_there_is_nothing_to_do() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brainstorm-agent"));
    let output = command.arg("key-holder").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(Holder::start().end(), Some(1));
}
