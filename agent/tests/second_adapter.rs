//! A second way into the agent, beside the relay: an adapter of a few dozen lines over the public
//! interface of `commands`, with no relay, no socket and no machine.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use brainstorm_agent::commands::executor::{Executor, ToolFacts};
use brainstorm_agent::commands::milestone::NoObserver;
use brainstorm_agent::commands::policy::Policy;
use brainstorm_agent::commands::watched::Watched;
use brainstorm_agent::commands::{Answer, Caller, Commands, Endpoint, Owed, Parts, Undelivered};
use brainstorm_agent::degraded::DegradedMode;
use brainstorm_agent::evidence::{EvidenceStore, Retention};
use brainstorm_agent::store::{AuditLog, Journal, NonceStore};
use ed25519_dalek::SigningKey;
use futures_util::future::BoxFuture;
use guest::registry::{CallError, Track};
use protocol::message::WireState;
use protocol::signing::{self, Domain};
use protocol::{Json, KeyRing, SigningKeyEntry, Timestamp};
use sandbox::{Executed, Failure, PartialOutput, ToolCall};
use serde_json::{Map, Value, json};

const ENDPOINT: &str = "22222222-2222-4222-8222-222222222222";
const SESSION: &str = "11111111-1111-4111-8111-111111111111";
const TENANT: &str = "local";
const KEY_ID: &str = "local/key";

/// The adapter: it keeps what it is told, and reads every result it can.
#[derive(Default)]
struct Letterbox {
    told: Mutex<Vec<Value>>,
    /// No answer can be written.
    is_shut: bool,
    /// Results are written, but never read.
    is_full: bool,
}

impl Letterbox {
    fn put(&self, text: &str) -> Result<(), Undelivered> {
        if self.is_shut {
            return Err(Undelivered { reason: "the letterbox is shut".to_owned() });
        }
        self.told.lock().unwrap().push(serde_json::from_str(text).unwrap());
        Ok(())
    }

    fn types(&self) -> Vec<String> {
        let told = self.told.lock().unwrap();
        told.iter().map(|answer| answer["type"].as_str().unwrap().to_owned()).collect()
    }
}

impl Caller for Letterbox {
    fn session_id(&self) -> &str {
        SESSION
    }

    fn answer(&self, answer: Answer) -> BoxFuture<'_, Result<(), Undelivered>> {
        Box::pin(async move { self.put(&answer.to_text()) })
    }

    fn deliver<'a>(&'a self, owed: &'a mut Owed<'_>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if self.put(owed.text()).is_ok() {
                owed.written();
                if !self.is_full {
                    owed.read().await;
                }
            }
        })
    }
}

/// Runs nothing: every command fails in the same way.
#[derive(Default)]
struct NoMachines {
    ran: AtomicUsize,
}

impl Executor for NoMachines {
    fn check(&self, tool: &str, _params: &Map<String, Value>) -> Result<ToolFacts, CallError> {
        if tool != "echo" {
            return Err(CallError::Unknown(tool.to_owned()));
        }
        let track = Track::DataProvider;
        Ok(ToolFacts { track, deadline_ms: 30_000, estimated_duration_ms: 1 })
    }

    fn capacity(&self) -> usize {
        4
    }

    fn execute(&self, _: &str, _: ToolCall, started: Box<dyn FnOnce() + Send>) -> Executed {
        self.ran.fetch_add(1, Ordering::SeqCst);
        started();
        let partial = PartialOutput::default();
        let message = "there is no machine".to_owned();
        Executed {
            result: Err(Failure { code: "SANDBOX_VSOCK_CLOSED", message, partial }),
            reset: None,
            execute: Duration::ZERO,
            reset_took: Duration::ZERO,
        }
    }

    fn state(&self) -> WireState {
        WireState::Ready
    }

    fn abort(&self) {}

    fn shut_down(&self) {}
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

async fn commands(dir: &std::path::Path, executor: &Arc<NoMachines>) -> Arc<Commands> {
    let (id, key) = (KEY_ID.to_owned(), key().verifying_key());
    let entry = SigningKeyEntry { id, key, not_before: None, not_after: None };
    std::fs::write(dir.join("keys.toml"), KeyRing::new(vec![entry], []).unwrap().to_toml())
        .unwrap();
    let evidence = dir.join("evidence");
    std::fs::create_dir_all(&evidence).unwrap();
    let parts = Parts {
        endpoint: Endpoint { endpoint_id: ENDPOINT.to_owned(), tenant_id: TENANT.to_owned() },
        keys: Watched::required(dir.join("keys.toml"), |text| {
            KeyRing::from_toml(text).map_err(|error| error.to_string())
        }),
        policy: Watched::optional(dir.join("policy.toml"), Policy::allow_all(), |text| {
            Policy::parse(text).map_err(|error| error.to_string())
        }),
        kill_switch: dir.join("kill"),
        nonces: NonceStore::open_anywhere(&dir.join("nonces.db"), 1024).unwrap(),
        journal: Journal::open(&dir.join("journal.db")).unwrap(),
        degraded: Arc::new(DegradedMode::open(dir)),
        audit: AuditLog::open(&dir.join("audit.db")).unwrap(),
        evidence: EvidenceStore::new(evidence, Retention::default(), None),
        executor: Arc::clone(executor) as Arc<dyn Executor>,
        observer: Box::new(NoObserver),
        clock: Arc::new(Timestamp::now),
    };
    Commands::start(parts).await.unwrap()
}

fn envelope(tool: &str) -> String {
    let now = Timestamp::now();
    let nonce = [*uuid::Uuid::new_v4().as_bytes(), *uuid::Uuid::new_v4().as_bytes()].concat();
    let mut envelope = json!({
        "type": "CommandEnvelope",
        "command_id": uuid::Uuid::new_v4().to_string(),
        "tenant_id": TENANT,
        "target_endpoint_id": ENDPOINT,
        "correlation_id": "second-adapter",
        "session_id": SESSION,
        "tool": tool,
        "params": {},
        "operator": {"kind": "human", "id": "alice", "originating_human_id": "alice"},
        "lifecycle_state": "dispatched",
        "issued_at": now,
        "expires_at": now.plus_millis(300_000),
        "nonce": URL_SAFE_NO_PAD.encode(nonce),
        "signing_key_id": KEY_ID,
        "signature_algo": signing::ALGORITHM,
        "signature": "",
    });
    let canonical = Json::from_value(&envelope).unwrap().canonical();
    let signature = signing::sign(&key(), Domain::CommandEnvelope, &canonical);
    envelope["signature"] = STANDARD.encode(signature).into();
    envelope.to_string()
}

/// Submits an envelope and waits until the command has ended.
async fn submit(commands: &Arc<Commands>, caller: Letterbox, text: String) -> Arc<Letterbox> {
    let caller = Arc::new(caller);
    commands.submit(Arc::clone(&caller) as Arc<dyn Caller>, text, Instant::now()).await;
    while commands.in_flight() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    caller
}

#[tokio::test]
async fn a_signed_envelope_is_acknowledged_run_and_answered() {
    let dir = tempfile::tempdir().unwrap();
    let executor = Arc::new(NoMachines::default());
    let commands = commands(dir.path(), &executor).await;
    let text = envelope("echo");
    let caller = submit(&commands, Letterbox::default(), text.clone()).await;
    commands.drain(Duration::from_secs(10)).await;

    assert_eq!(caller.types(), ["CommandAck", "ProgressEvent", "CommandResult"]);
    assert_eq!(executor.ran.load(Ordering::SeqCst), 1);
    let result = caller.told.lock().unwrap().pop().unwrap();
    assert_eq!(result["error"]["code"], "SANDBOX_VSOCK_CLOSED");
    assert_eq!(result["session_id"], SESSION);
    assert_eq!(commands.owed(10).await.unwrap().len(), 0, "it was read");

    // Its nonce is spent.
    let again = submit(&commands, Letterbox::default(), text).await;
    assert_eq!(again.types(), ["ErrorEvent"]);
    assert_eq!(executor.ran.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_command_whose_acknowledgement_is_not_written_does_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let executor = Arc::new(NoMachines::default());
    let commands = commands(dir.path(), &executor).await;
    let shut = Letterbox { is_shut: true, ..Letterbox::default() };
    let caller = submit(&commands, shut, envelope("echo")).await;
    commands.drain(Duration::from_secs(10)).await;

    assert!(caller.types().is_empty());
    assert_eq!(executor.ran.load(Ordering::SeqCst), 0);
    let owed = commands.owed(10).await.unwrap();
    assert_eq!(owed.len(), 1);
    assert!(owed[0].text().contains("it was not run"), "{}", owed[0].text());
}

#[tokio::test]
async fn a_result_that_was_written_but_not_read_stays_owed_in_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let executor = Arc::new(NoMachines::default());
    let first = commands(dir.path(), &executor).await;
    let full = Letterbox { is_full: true, ..Letterbox::default() };
    let caller = submit(&first, full, envelope("echo")).await;
    first.drain(Duration::from_secs(10)).await;
    assert_eq!(caller.types(), ["CommandAck", "ProgressEvent", "CommandResult"]);
    drop(first);

    let second = commands(dir.path(), &executor).await;
    let mut owed = second.owed(10).await.unwrap();
    assert_eq!(owed.len(), 1);
    let result: Value = serde_json::from_str(owed[0].text()).unwrap();
    assert_eq!(result["type"], "CommandResult");
    assert!(owed[0].read().await);
    assert_eq!(second.owed(10).await.unwrap().len(), 0);
    assert_eq!(executor.ran.load(Ordering::SeqCst), 1, "it is reported, and not run again");
}

#[tokio::test]
async fn an_envelope_that_is_refused_is_answered_by_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let executor = Arc::new(NoMachines::default());
    let commands = commands(dir.path(), &executor).await;
    for (text, code) in [
        (envelope("nonexistent"), "ENDPOINT_TOOL_NOT_REGISTERED"),
        (envelope("echo").replace("alice", "mallory"), "ENDPOINT_SIGNATURE_INVALID"),
    ] {
        let caller = submit(&commands, Letterbox::default(), text).await;
        let told = caller.told.lock().unwrap();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0]["type"], "ErrorEvent");
        assert_eq!(told[0]["code"], code);
    }
    assert_eq!(executor.ran.load(Ordering::SeqCst), 0);
}
