//! The `dev-relay` command, as a person and as a program use it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "this is a test; its helpers fail it like its functions do"
)]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dev_relay::http::client::post;
use dev_relay::operator::client::loopback;
use ed25519_dalek::SigningKey;
use futures_util::{SinkExt as _, StreamExt as _};
use protocol::signing::{self, Domain};
use protocol::timestamp::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

fn dev_relay() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dev-relay"));
    command.env_remove("DEV_RELAY_ADMIN_TOKEN").env_remove("DEV_RELAY_OPERATOR_KEY");
    command
}

/// A relay in a process of its own, ended with the test.
struct Serving {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    ready: Value,
}

impl Serving {
    fn start(ready_file: &Path, more: &[&str]) -> Self {
        let mut child = dev_relay()
            .args(["--ws", "127.0.0.1:0", "--http", "127.0.0.1:0", "--json", "--ready-file"])
            .arg(ready_file)
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut serving = Self { child, lines, ready: Value::Null };
        serving.ready = serving.event("ready")["relay"].take();
        serving
    }

    /// The next event of that name.
    fn event(&mut self, name: &str) -> Value {
        loop {
            let mut line = String::new();
            assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "no event {name}");
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["event"] == name {
                return event;
            }
        }
    }

    /// Asks it to stop and gives the exit code.
    fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Gone already after `stop`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Enrolls the endpoint of the ready file over HTTP and connects it.
async fn endpoint(ready: &Value) -> (WebSocketStream<TcpStream>, Value) {
    let text = |name: &str| ready[name].as_str().unwrap().to_owned();
    let key = SigningKey::from_bytes(&[7; 32]);
    let body = json!({"public_key": STANDARD.encode(key.verifying_key()), "os": "linux",
        "arch": "x86_64", "agent_version": "0"});
    let http = loopback(&text("http_url"), "http://").unwrap();
    let token = text("bootstrap_token");
    let (status, enrolled) =
        post(http, "/v1/endpoint/enroll", Some(&token), &body.to_string()).await.unwrap();
    assert_eq!((status, &enrolled["endpoint_id"]), (200, &ready["endpoint_id"]));

    let ts = Timestamp::now().to_string();
    let (id, tenant) = (text("endpoint_id"), text("tenant_id"));
    let proof = signing::connection_proof_bytes(&id, &tenant, &ts).unwrap();
    let signature = STANDARD.encode(signing::sign(&key, Domain::ConnectionProof, &proof));
    let hello = json!({"type": "EndpointHello", "endpoint_id": id, "tenant_id": tenant,
        "agent_version": "0", "agent_protocol_version": "v1",
        "connection_proof": {"ts": ts, "signature": signature}});
    let address = loopback(&text("ws_url"), "ws://").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let url = format!("ws://{address}/v1/endpoint/connect");
    let (mut socket, _) = client_async(url, stream).await.unwrap();
    socket.send(Message::text(hello.to_string())).await.unwrap();
    let ack = frame(&mut socket).await;
    assert_eq!(ack["type"], "EndpointHelloAck");
    (socket, ack)
}

async fn frame(socket: &mut WebSocketStream<TcpStream>) -> Value {
    let message = tokio::time::timeout(Duration::from_secs(20), socket.next()).await;
    let Ok(Some(Ok(Message::Text(text)))) = message else { panic!("no frame: {message:?}") };
    serde_json::from_str(&text).unwrap()
}

/// Acknowledges the next command and fails it, or completes it with what it was told to say.
async fn serve_one(socket: &mut WebSocketStream<TcpStream>) {
    let envelope = frame(socket).await;
    let about = |kind: &str| {
        json!({"type": kind, "command_id": envelope["command_id"],
            "endpoint_id": envelope["target_endpoint_id"], "session_id": envelope["session_id"],
            "ts": Timestamp::now()})
    };
    let mut ack = about("CommandAck");
    ack["track"] = json!("data_provider");
    ack["will_emit_progress"] = json!(false);
    socket.send(Message::text(ack.to_string())).await.unwrap();
    let hash = format!("sha256:{}", "0a".repeat(32));
    let mut result = about("CommandResult");
    result["evidence_hash"] = json!(hash);
    if envelope["tool"] == "echo" {
        result["lifecycle_state"] = json!("completed");
        let said = format!("{}\n", envelope["params"]["message"].as_str().unwrap());
        result["payload"] = json!({"stdout": said, "stderr": "", "exit_code": 0});
        result["sandbox_reset_state"] = json!({
            "reset_at": Timestamp::now(), "golden_hash": hash, "verification_passed": true,
            "verification_details": {
                "fs_hash": hash, "fs_hash_baseline": hash, "fs_hash_match": true,
                "open_fd_count": 3, "open_fd_count_baseline": 3, "vmm_api_state": "running",
                "expected_vmm_api_state": "running", "divergence_action": "none",
            },
        });
    } else {
        result["lifecycle_state"] = json!("failed");
        result["error"] = json!({"code": "SANDBOX_TOOL_ERROR", "message": "it \u{1b}[31mfailed"});
    }
    socket.send(Message::text(result.to_string())).await.unwrap();
}

/// Runs a command beside the test's own tasks.
async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output().unwrap())
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_relay_a_token_and_a_command() {
    let directory = tempfile::tempdir().unwrap();
    let ready_file = directory.path().join("relay.json");
    let mut serving = Serving::start(&ready_file, &["--strict"]);
    let written: Value = serde_json::from_slice(&std::fs::read(&ready_file).unwrap()).unwrap();
    assert_eq!(written, serving.ready);
    assert_eq!(written["tenant_public_key_hex"].as_str().unwrap().len(), 64);

    let mut token = dev_relay();
    token.arg("token").arg("--ready-file").arg(&ready_file);
    let token = output(token).await;
    assert!(token.status.success(), "{token:?}");
    assert_eq!(text(&token.stdout).trim().len(), 43);

    let dispatch = |tool: &str, more: &[&str]| {
        let mut command = dev_relay();
        command.arg("dispatch").arg("--ready-file").arg(&ready_file);
        command.args(["--endpoint", written["endpoint_id"].as_str().unwrap(), tool]).args(more);
        command
    };
    let offline = output(dispatch("echo", &["--yes"])).await;
    assert_eq!(offline.status.code(), Some(3), "{offline:?}");
    assert!(text(&offline.stderr).contains("RELAY_ENDPOINT_UNREACHABLE"), "{offline:?}");

    let (mut socket, _) = endpoint(&written).await;
    serving.event("connected");
    let said = tokio::join!(
        output(dispatch("echo", &["-p", "message=hi", "--yes"])),
        serve_one(&mut socket)
    );
    assert!(said.0.status.success(), "{said:?}");
    assert_eq!(text(&said.0.stdout), "hi\n");
    assert!(text(&said.0.stderr).contains("Will execute tool 'echo'"), "{said:?}");
    let json = ["--params", r#"{"message":"hi"}"#, "--yes", "--json"];
    let said = tokio::join!(output(dispatch("echo", &json)), serve_one(&mut socket));
    let frames: Vec<Value> = text(&said.0.stdout)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["frame"].take())
        .collect();
    let types: Vec<_> = frames.iter().map(|frame| frame["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["ChangeSetPreview", "ProgressEvent", "ResultEvent"]);

    let failed = tokio::join!(output(dispatch("sh", &["--yes"])), serve_one(&mut socket));
    assert_eq!(failed.0.status.code(), Some(1), "{failed:?}");
    // What a tool says does not reach the terminal's ears.
    assert!(text(&failed.0.stderr).contains("SANDBOX_TOOL_ERROR: it \u{fffd}[31mfailed"));
    // The operator does not confirm.
    let declined = output(dispatch("echo", &[])).await;
    assert_eq!(declined.status.code(), Some(2), "{declined:?}");

    let frame = loop {
        let frame = serving.event("frame")["frame"].take();
        if frame["type"] == "CommandResult" {
            break frame;
        }
    };
    assert_eq!(frame["sandbox_reset_state"]["verification_passed"], true);
    assert_eq!(serving.stop(), Some(0));
}

#[tokio::test]
async fn a_strict_relay_exits_with_one_after_a_violation() {
    let directory = tempfile::tempdir().unwrap();
    let mut serving = Serving::start(&directory.path().join("relay.json"), &["--strict"]);
    let (mut socket, _) = endpoint(&serving.ready).await;
    socket.send(Message::text(r#"{"type":"Gossip"}"#)).await.unwrap();
    assert_eq!(serving.event("violation")["kind"], "UnknownType");
    assert_eq!(serving.stop(), Some(1));
}

#[tokio::test]
async fn wrong_usage_is_named() {
    let mut everywhere = dev_relay();
    everywhere.args(["--ws", "0.0.0.0:0"]);
    let everywhere = output(everywhere).await;
    assert_eq!(everywhere.status.code(), Some(2));
    assert!(text(&everywhere.stderr).contains("not a loopback address"), "{everywhere:?}");

    let mut without_relay = dev_relay();
    // Random keys may begin like an option.
    without_relay.args(["dispatch", "--operator-key", "-k", "--relay", "ws://127.0.0.1:1"]);
    without_relay.args(["--endpoint", "e", "echo"]);
    let refused = output(without_relay).await;
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert!(text(&refused.stderr).contains("is it running?"), "{refused:?}");

    let mut elsewhere = dev_relay();
    elsewhere.args(["token", "--admin-token", "t", "--relay", "http://192.0.2.1:1"]);
    let elsewhere = output(elsewhere).await;
    assert_eq!(elsewhere.status.code(), Some(2), "{elsewhere:?}");
}
