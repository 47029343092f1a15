//! `brainstorm-agent enroll` against a server that answers as a relay does.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, channel};

use brainstorm_agent::store::StateDir;
use brainstorm_agent::store::identity::Identity;
use protocol::Timestamp;
use protocol::keyring::KeyRing;
use serde_json::{Value, json};

const ENDPOINT: &str = "dc4a8b19-91c5-4c30-b66d-549dc96aea71";
const OTHER: &str = "3f2b8c1e-7d4a-4e9b-9c55-0123456789ab";
/// As much like an option as a token can be.
const TOKEN: &str = "--vAmDGNUOIA-A52VD_YBkch8NzNiXLTpVFb7pjrw8E";
const TENANT_KEY: &str = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8";

/// Answers each request in turn, and tells its head and body.
fn server(answers: Vec<(u16, Value)>) -> (SocketAddr, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, requests) = channel();
    std::thread::spawn(move || {
        for (status, body) in answers {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert!(reader.read_line(&mut head).unwrap() > 0);
            }
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()
            });
            let mut content = vec![0; length.unwrap()];
            reader.read_exact(&mut content).unwrap();
            let body = body.to_string();
            let answer = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
            let _ = seen.send((head, serde_json::from_slice(&content).unwrap()));
        }
    });
    (address, requests)
}

fn enrolled(endpoint: &str) -> (u16, Value) {
    let registered_at = "2026-01-02T03:04:05.678Z";
    (200, json!({"endpoint_id": endpoint, "tenant_id": "acme", "registered_at": registered_at}))
}

struct Host {
    dir: tempfile::TempDir,
    relay: String,
}

impl Host {
    fn new(relay: SocketAddr) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), relay: format!("http://{relay}") }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn identity(&self) -> PathBuf {
        self.state().join("identity.json")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brainstorm-agent"));
        command
            .args(["enroll", "--relay", &self.relay])
            .arg("--state-dir")
            .arg(self.state())
            .env_remove("BSM_ENROLL_TOKEN");
        command
    }

    fn enroll(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).env("BSM_ENROLL_TOKEN", TOKEN).output().unwrap()
    }
}

fn assert_code(output: &Output, code: i32) -> String {
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains(TOKEN), "the token is shown: {text}");
    text
}

fn seed(identity: &Path) -> String {
    let form: Value = serde_json::from_str(&fs::read_to_string(identity).unwrap()).unwrap();
    form["seed"].as_str().unwrap().to_owned()
}

#[test]
fn a_host_becomes_an_endpoint_once() {
    let (relay, requests) = server(vec![enrolled(ENDPOINT)]);
    let host = Host::new(relay);
    let text = assert_code(&host.enroll(&["--tenant-key", TENANT_KEY]), 0);
    assert!(text.contains(ENDPOINT) && text.contains("acme/key-v1"), "{text}");
    assert!(!text.contains(&seed(&host.identity())), "the key is shown: {text}");
    let (head, body) = requests.recv().unwrap();
    assert!(head.starts_with("POST /v1/endpoint/enroll HTTP/1.1\r\n"), "{head}");
    assert_eq!((&body["os"], &body["arch"]), (&json!("linux"), &json!("x86_64")));

    let identity = Identity::load(&host.identity(), Some(ENDPOINT)).unwrap();
    assert_eq!((identity.tenant_id.as_str(), &identity.relay), ("acme", &host.relay));
    let ring = KeyRing::from_toml(&fs::read_to_string(host.state().join("keys.toml")).unwrap());
    assert!(ring.unwrap().find("acme/key-v1", Timestamp::now()).is_ok());
    for file in ["identity.json", "keys.toml"] {
        let mode = fs::metadata(host.state().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }

    // The relay answers no more, and need not.
    let again = host.enroll(&["--json"]);
    assert_code(&again, 0);
    let report: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(report["already_enrolled"], true);
    assert_eq!(report["endpoint_id"], ENDPOINT);
    let text = assert_code(&host.enroll(&["--endpoint-id", OTHER]), 1);
    assert!(text.contains("--force"), "{text}");
}

#[test]
fn force_enrolls_anew_with_another_key() {
    let (relay, requests) = server(vec![enrolled(ENDPOINT), enrolled(OTHER)]);
    let host = Host::new(relay);
    assert_code(&host.enroll(&[]), 0);
    assert_code(&host.enroll(&["--force"]), 0);
    let keys: Vec<_> = requests.iter().map(|(_, body)| body["public_key"].clone()).collect();
    assert_ne!(keys[0], keys[1]);
    Identity::load(&host.identity(), Some(OTHER)).unwrap();
}

#[test]
fn a_refused_attempt_leaves_nothing_but_the_key_for_the_next_one() {
    let refusal = (409, json!({"code": "TOKEN_EXPIRED"}));
    let (relay, requests) = server(vec![refusal, enrolled(OTHER), enrolled(ENDPOINT)]);
    let host = Host::new(relay);
    let text = assert_code(&host.enroll(&[]), 1);
    assert!(text.contains("fresh one"), "{text}");
    assert!(!host.identity().exists());
    // A token for another endpoint than this host is meant to be.
    let text = assert_code(&host.enroll(&["--endpoint-id", ENDPOINT]), 1);
    assert!(text.contains(OTHER), "{text}");
    assert!(!host.identity().exists());

    let text = assert_code(&host.enroll(&["--endpoint-id", ENDPOINT]), 0);
    assert!(text.contains("--tenant-key"), "{text}");
    let keys: Vec<_> = requests.iter().map(|(_, body)| body["public_key"].clone()).collect();
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    // The key can come later, without a token.
    let late = host.command().args(["--tenant-key", TENANT_KEY]).output().unwrap();
    assert_code(&late, 0);
    let named = ["--tenant-key", TENANT_KEY, "--signing-key-id", "acme/key-v2"];
    assert_code(&host.command().args(named).output().unwrap(), 0);
    let ring = fs::read_to_string(host.state().join("keys.toml")).unwrap();
    assert_eq!(KeyRing::from_toml(&ring).unwrap().keys().len(), 2);
}

#[test]
fn the_token_comes_from_file_input_or_flag() {
    let (relay, requests) =
        server(vec![enrolled(ENDPOINT), enrolled(ENDPOINT), enrolled(ENDPOINT)]);
    let host = Host::new(relay);
    let file = host.dir.path().join("token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let from_file = host.command().args(["--force", "--token-file"]).arg(&file).output().unwrap();
    assert_code(&from_file, 0);
    let input = fs::File::open(&file).unwrap();
    let piped = ["--force", "--token-file", "-"];
    assert_code(&host.command().args(piped).stdin(input).output().unwrap(), 0);
    assert_code(&host.command().args(["--force", "--token", TOKEN]).output().unwrap(), 0);
    for (head, _) in requests {
        assert!(head.contains(&format!("authorization: Bearer {TOKEN}\r\n")), "{head}");
    }
}

#[test]
fn wrong_usage_is_told_before_a_token_is_spent() {
    let (relay, requests) = server(vec![enrolled(ENDPOINT)]);
    let host = Host::new(relay);
    let text = assert_code(&host.command().output().unwrap(), 2);
    assert!(text.contains("BSM_ENROLL_TOKEN"), "{text}");
    for arguments in [
        &["--tenant-key", "abc"][..],
        &["--signing-key-id", "acme/key-v1"],
        &["--ca-file", "/nonexistent"],
        &["--token-file", "/nonexistent"],
    ] {
        assert_code(&host.enroll(arguments), 2);
    }
    let mut plain = Host::new(relay);
    plain.relay = "http://relay.example".to_owned();
    let text = assert_code(&plain.enroll(&[]), 2);
    assert!(text.contains("unencrypted"), "{text}");
    let busy = StateDir::open(&host.state()).unwrap();
    let text = assert_code(&host.enroll(&[]), 1);
    assert!(text.contains("used by another agent"), "{text}");
    drop(busy);
    assert!(requests.try_recv().is_err());
    // The positive control of that silence.
    assert_code(&host.enroll(&[]), 0);
    requests.recv().unwrap();
}
