//! Commands without a relay, a socket or a machine, in a directory of the test's own.
#![allow(dead_code, reason = "each test uses some of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use brainstorm_agent::commands::executor::{Executor, MayBegin, ToolFacts};
use brainstorm_agent::commands::milestone::{NoObserver, Observer};
use brainstorm_agent::commands::policy::Policy;
use brainstorm_agent::commands::watched::Watched;
use brainstorm_agent::commands::{Commands, Endpoint, Parts};
use brainstorm_agent::degraded::DegradedMode;
use brainstorm_agent::evidence::{EvidenceStore, Retention};
use brainstorm_agent::store::{AuditLog, Journal, NonceStore, StoreError};
use ed25519_dalek::SigningKey;
use guest::registry::{CallError, Track};
use protocol::message::{DEFAULT_FRAME_BYTES, WireState};
use protocol::signing::{self, Domain};
use protocol::{Json, KeyRing, SigningKeyEntry, Timestamp};
use sandbox::{Executed, Failure, PartialOutput, ToolCall};
use serde_json::{Map, Value, json};

pub const ENDPOINT: &str = "22222222-2222-4222-8222-222222222222";
pub const SESSION: &str = "11111111-1111-4111-8111-111111111111";
const TENANT: &str = "local";
pub const KEY_ID: &str = "local/key";

/// Runs nothing: every command fails in the same way.
pub struct NoMachines {
    pub ran: AtomicUsize,
    /// Why, as every result says.
    pub message: String,
    /// Commands do not end while this is so.
    pub hold: AtomicBool,
    /// Commands wait for their machine while this is so.
    pub wait: AtomicBool,
}

impl Default for NoMachines {
    fn default() -> Self {
        let message = "there is no machine".to_owned();
        Self {
            ran: AtomicUsize::new(0),
            message,
            hold: AtomicBool::new(false),
            wait: AtomicBool::new(false),
        }
    }
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

    fn execute(&self, _: &str, _: ToolCall, may_begin: MayBegin) -> Executed {
        while self.wait.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Err(refused) = may_begin() {
            return Executed::refused(refused);
        }
        self.ran.fetch_add(1, Ordering::SeqCst);
        while self.hold.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let partial = PartialOutput::default();
        let message = self.message.clone();
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

pub async fn commands(dir: &std::path::Path, executor: &Arc<NoMachines>) -> Arc<Commands> {
    observed_commands(dir, executor, Box::new(NoObserver)).await
}

/// The same, watched.
pub async fn observed_commands(
    dir: &std::path::Path,
    executor: &Arc<NoMachines>,
    observer: Box<dyn Observer>,
) -> Arc<Commands> {
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
        nonces: once_free(|| NonceStore::open_anywhere(&dir.join("nonces.db"), 1024)).await,
        journal: once_free(|| Journal::open(&dir.join("journal.db"))).await,
        degraded: Arc::new(DegradedMode::open(dir)),
        audit: once_free(|| AuditLog::open(&dir.join("audit.db"))).await,
        evidence: EvidenceStore::new(evidence, Retention::default(), None),
        executor: Arc::clone(executor) as Arc<dyn Executor>,
        frame_bytes: DEFAULT_FRAME_BYTES,
        observer,
        clock: Arc::new(Timestamp::now),
    };
    Commands::start(parts).await.unwrap()
}

/// Opens a store, also one that the commands before have not let go of yet.
async fn once_free<T>(open: impl Fn() -> Result<T, StoreError>) -> T {
    let until = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        match open() {
            Err(StoreError::Busy { .. }) if std::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            opened => return opened.unwrap(),
        }
    }
}

pub fn envelope(tool: &str) -> String {
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
