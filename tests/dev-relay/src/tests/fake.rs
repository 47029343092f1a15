//! An endpoint by hand.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use futures_util::{SinkExt as _, StreamExt as _};
use protocol::signing::{self, Domain};
use protocol::timestamp::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::LONG;
use crate::{DevRelay, random};

/// Key and identity of an enrolled endpoint.
pub(super) struct Identity {
    pub(super) endpoint_id: String,
    pub(super) tenant_id: String,
    pub(super) key: SigningKey,
}

impl Identity {
    /// Enrolls a new endpoint.
    pub(super) fn enrolled(relay: &DevRelay) -> Self {
        let key = SigningKey::from_bytes(&random::bytes());
        let endpoint_id = random::uuid();
        relay.enroll(&endpoint_id, &STANDARD.encode(key.verifying_key()));
        Self { endpoint_id, tenant_id: relay.tenant_id().to_owned(), key }
    }

    /// A good hello, proved at `ts`.
    pub(super) fn hello(&self, ts: &str) -> Value {
        let proof =
            signing::connection_proof_bytes(&self.endpoint_id, &self.tenant_id, ts).unwrap();
        let signature = signing::sign(&self.key, Domain::ConnectionProof, &proof);
        json!({
            "type": "EndpointHello",
            "endpoint_id": self.endpoint_id,
            "tenant_id": self.tenant_id,
            "agent_version": "0.0.0",
            "agent_protocol_version": "v1",
            "connection_proof": {"ts": ts, "signature": STANDARD.encode(signature)},
        })
    }
}

/// A WebSocket to the relay.
pub(super) struct Wire(pub(super) WebSocketStream<TcpStream>);

impl Wire {
    pub(super) async fn connect(relay: &DevRelay, path: &str) -> Self {
        let url = format!("{}{path}", relay.ws_url());
        let address: SocketAddr = relay.ws_url().strip_prefix("ws://").unwrap().parse().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        Self(client_async(url, stream).await.unwrap().0)
    }

    pub(super) async fn send(&mut self, frame: &Value) {
        self.send_text(&frame.to_string()).await;
    }

    pub(super) async fn send_text(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    /// The next message, `None` when the connection is over.
    pub(super) async fn message(&mut self) -> Option<Message> {
        tokio::time::timeout(LONG, self.0.next()).await.expect("a message")?.ok()
    }

    /// The next text frame.
    pub(super) async fn frame(&mut self) -> Value {
        loop {
            match self.message().await.expect("a frame, not the end") {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("a text frame, not {other:?}"),
            }
        }
    }

    /// Code and reason of the close frame that must come next.
    pub(super) async fn closed(&mut self) -> (u16, String) {
        match self.message().await {
            Some(Message::Close(Some(frame))) => (frame.code.into(), frame.reason.to_string()),
            other => panic!("a close frame, not {other:?}"),
        }
    }
}

/// An endpoint with a session.
pub(super) struct Endpoint {
    pub(super) wire: Wire,
    pub(super) id: String,
    pub(super) session_id: String,
}

impl Endpoint {
    pub(super) async fn connect(relay: &DevRelay, identity: &Identity) -> Self {
        let mut wire = Wire::connect(relay, "/v1/endpoint/connect").await;
        wire.send(&identity.hello(&relay.now().to_string())).await;
        let ack = wire.frame().await;
        assert_eq!(ack["type"], "EndpointHelloAck");
        assert_eq!(ack["server_protocol_version"], "v1");
        let session_id = ack["session_id"].as_str().unwrap().to_owned();
        Self { wire, id: identity.endpoint_id.clone(), session_id }
    }

    /// A frame about a command, with what all of them carry.
    pub(super) fn about(&self, kind: &str, command_id: &str, more: Value) -> Value {
        let mut frame = json!({
            "type": kind,
            "command_id": command_id,
            "endpoint_id": self.id,
            "session_id": self.session_id,
            "ts": Timestamp::now(),
        });
        let Value::Object(more) = more else { panic!("an object") };
        frame.as_object_mut().unwrap().extend(more);
        frame
    }

    pub(super) fn ack(&self, command_id: &str) -> Value {
        let more = json!({"track": "data_provider", "will_emit_progress": true});
        self.about("CommandAck", command_id, more)
    }

    pub(super) fn progress(&self, command_id: &str, seq: u64) -> Value {
        let progress = json!({"fraction": 0.5, "message": "half"});
        let more = json!({"lifecycle_state": "progress", "seq": seq, "progress": progress});
        self.about("ProgressEvent", command_id, more)
    }

    pub(super) fn completed(&self, command_id: &str) -> Value {
        let hash = format!("sha256:{}", "0a".repeat(32));
        self.about(
            "CommandResult",
            command_id,
            json!({
                "lifecycle_state": "completed",
                "payload": {"stdout": "hello\n", "stderr": "", "exit_code": 0},
                "error": null,
                "evidence_hash": hash,
                "sandbox_reset_state": {
                    "reset_at": Timestamp::now(), "golden_hash": hash,
                    "verification_passed": true,
                    "verification_details": {
                        "fs_hash": hash, "fs_hash_baseline": hash, "fs_hash_match": true,
                        "open_fd_count": 3, "open_fd_count_baseline": 3,
                        "vmm_api_state": "running", "expected_vmm_api_state": "running",
                        "divergence_action": "none",
                    },
                },
                "resumed": false,
            }),
        )
    }

    pub(super) fn failed(&self, command_id: &str, code: &str) -> Value {
        self.about(
            "CommandResult",
            command_id,
            json!({
                "lifecycle_state": "failed",
                "error": {"code": code, "message": "it failed"},
                "evidence_hash": format!("sha256:{}", "0b".repeat(32)),
            }),
        )
    }

    pub(super) fn error(&self, command_id: &str, code: &str) -> Value {
        self.about("ErrorEvent", command_id, json!({"code": code, "message": "refused"}))
    }
}
