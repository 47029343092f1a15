//! `canonicalize` and `envelope verify`, as a person runs them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_brainstorm-agent");
const VECTORS: &str = include_str!("../protocol/src/vectors.json");

fn run(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(PROGRAM)
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // The program may end before it has read everything.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn vectors() -> Value {
    serde_json::from_str(VECTORS).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn canonicalize_prints_exactly_the_canonical_bytes() {
    for vector in vectors()["canonicalisation"].as_array().unwrap() {
        let output = run(&["canonicalize"], vector["input_json"].as_str().unwrap().as_bytes());
        if vector["refused"] == true {
            assert_eq!((code(&output), out(&output)), (1, ""), "{vector}");
            assert!(err(&output).starts_with("error: "), "{}", err(&output));
        } else {
            assert_eq!((code(&output), err(&output)), (0, ""), "{vector}");
            assert_eq!(out(&output), vector["canonical"], "{vector}");
        }
    }
}

#[test]
fn canonicalize_reads_text_up_to_a_limit() {
    for input in [&b"\"\xff\""[..], &vec![b' '; (16 << 20) + 1], b"", b"{} {}"] {
        let output = run(&["canonicalize"], input);
        assert_eq!((code(&output), out(&output)), (1, ""));
        assert!(err(&output).starts_with("error: "), "{}", err(&output));
    }
}

struct Envelope {
    text: String,
    key: String,
    fields: Value,
}

fn envelope() -> Envelope {
    let group = &vectors()["command_envelope"];
    let text = group["vectors"][0]["wire_json"].as_str().unwrap().to_owned();
    let fields = serde_json::from_str(&text).unwrap();
    Envelope { text, key: group["public_key_hex"].as_str().unwrap().to_owned(), fields }
}

impl Envelope {
    fn verify(&self, more: &[&str]) -> Output {
        let arguments = [&["envelope", "verify", "--public-key", &self.key], more].concat();
        run(&arguments, self.text.as_bytes())
    }

    fn field(&self, name: &str) -> &str {
        self.fields[name].as_str().unwrap()
    }
}

#[test]
fn a_right_envelope_is_valid() {
    let envelope = envelope();
    let output = envelope.verify(&["--no-time"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert_eq!(out(&output), "valid\nnot checked: endpoint, tenant, session, times, nonce\n");

    let all = [
        "--endpoint-id",
        envelope.field("target_endpoint_id"),
        "--tenant-id",
        envelope.field("tenant_id"),
        "--session-id",
        envelope.field("session_id"),
        "--now",
        "2026-01-02T03:05:00Z",
    ];
    let output = envelope.verify(&all);
    assert_eq!((code(&output), out(&output)), (0, "valid\nnot checked: nonce\n"));

    let output = envelope.verify(&[&all[..], &["--json"]].concat());
    let verdict: Value = serde_json::from_str(out(&output)).unwrap();
    let id = envelope.field("command_id");
    assert_eq!(verdict, json!({"valid": true, "command_id": id, "not_checked": ["nonce"]}));
    assert_eq!(code(&output), 0);
}

#[test]
fn the_check_that_fails_is_named_with_its_code() {
    let other = "00000000-0000-4000-8000-000000000000";
    let now = "--now=2026-01-02T03:05:00Z";
    for (arguments, check, code_text) in [
        (vec!["--endpoint-id", other, now], "endpoint", "ENDPOINT_WRONG_AUDIENCE"),
        (vec!["--tenant-id", other, now], "tenant", "ENDPOINT_WRONG_AUDIENCE"),
        (vec!["--session-id", other, now], "session", "ENDPOINT_SESSION_STALE"),
        (vec!["--now=2026-01-02T03:10:06Z"], "times", "ENDPOINT_ENVELOPE_EXPIRED"),
        (vec!["--now=2026-01-02T03:03:05Z"], "times", "ENDPOINT_ENVELOPE_FUTURE_DATED"),
        // The system's clock is past the vector's times.
        (vec![], "times", "ENDPOINT_ENVELOPE_EXPIRED"),
    ] {
        let output = envelope().verify(&arguments);
        assert_eq!(code(&output), 1, "{arguments:?}");
        assert!(out(&output).starts_with(&format!("{code_text}\n{check}: ")), "{}", out(&output));

        let output = envelope().verify(&[&arguments[..], &["--json"]].concat());
        let verdict: Value = serde_json::from_str(out(&output)).unwrap();
        assert_eq!(code(&output), 1);
        assert_eq!((verdict["valid"].as_bool(), &verdict["check"]), (Some(false), &json!(check)));
        assert_eq!(verdict["code"], code_text);
        assert!(!verdict["message"].as_str().unwrap().is_empty());
        assert_eq!(verdict["command_id"], envelope().fields["command_id"]);
    }
}

#[test]
fn an_envelope_that_says_something_else_than_was_signed_is_refused() {
    let mut envelope = envelope();
    envelope.text = envelope.text.replace("hello", "hellO");
    let output = envelope.verify(&["--no-time"]);
    assert_eq!(code(&output), 1);
    assert!(
        out(&output).starts_with("ENDPOINT_SIGNATURE_INVALID\nsignature: "),
        "{}",
        out(&output)
    );
}

#[test]
fn text_that_is_no_envelope_is_refused() {
    for (input, check) in [
        (b"{}".to_vec(), "schema"),
        (b"junk".to_vec(), "json"),
        (b"\xff".to_vec(), "json"),
        (Vec::new(), "json"),
        (vec![b' '; (1 << 20) + 1], "size"),
        (vec![b' '; (16 << 20) + 1], "size"),
    ] {
        let key = envelope().key;
        let output = run(&["envelope", "verify", "--public-key", &key], &input);
        assert_eq!(code(&output), 1);
        let start = format!("ENDPOINT_SCHEMA_INVALID\n{check}: ");
        assert!(out(&output).starts_with(&start), "{}", out(&output));
    }
}

#[test]
fn wrong_usage_is_told_apart_from_a_wrong_envelope() {
    let key = envelope().key;
    for arguments in [
        vec![],
        vec!["--public-key", "ab"],
        vec!["--public-key", &"00".repeat(32)],
        vec!["--public-key", &key, "--now", "today"],
        vec!["--public-key", &key, "--now", "2026-01-02T03:05:00Z", "--no-time"],
    ] {
        let output = run(&[&["envelope", "verify"], &arguments[..]].concat(), b"{}");
        assert_eq!((code(&output), out(&output)), (2, ""), "{arguments:?}");
    }
}

/// Runs the program with standard output and standard error at the given places.
fn status_with(arguments: &[&str], stdout: Stdio, stderr: Stdio) -> i32 {
    let mut child = Command::new(PROGRAM)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .unwrap();
    // The program may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(b"{\"a\":1}");
    child.wait().unwrap().code().unwrap()
}

/// A pipe that nothing reads from any more.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full_disk() -> Stdio {
    std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn a_reader_that_has_gone_changes_no_exit_code() {
    let key = envelope().key;
    for (arguments, expected) in
        [(&["canonicalize"][..], 0), (&["envelope", "verify", "--public-key", &key], 1)]
    {
        assert_eq!(status_with(arguments, Stdio::null(), Stdio::null()), expected, "{arguments:?}");
        assert_eq!(status_with(arguments, closed_pipe(), Stdio::null()), expected, "{arguments:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_an_error_and_never_a_panic() {
    let canonicalize = &["canonicalize"];
    assert_eq!(status_with(canonicalize, full_disk(), full_disk()), 1);
    assert_eq!(status_with(canonicalize, full_disk(), closed_pipe()), 1);
    // What is wrong cannot be said; the exit code still says it.
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    for stderr in [closed_pipe(), full_disk()] {
        assert_eq!(status_with(&["status", "--state-dir", state], Stdio::null(), stderr), 125);
    }
}
