//! Signs commands as a relay does.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::ProbeError;
use protocol::signing::{self, Domain};
use protocol::{Json, KeyRing, SigningKeyEntry, Timestamp};

/// Id of the endpoint that commands are for.
pub const ENDPOINT: &str = "22222222-2222-4222-8222-222222222222";
/// Id of the tenant that the endpoint belongs to.
pub const TENANT: &str = "redteam";
/// Id of the session that commands are for.
pub const SESSION: &str = "11111111-1111-4111-8111-111111111111";
/// Id of another endpoint, command or session.
pub const OTHER: &str = "33333333-3333-4333-8333-333333333333";

const KEY_ID: &str = "redteam/key";
/// Life of an envelope, in milliseconds.
pub const LIFE_MS: i64 = 300_000;

/// The signing key of the probes. Only [`keys`] trusts it.
pub fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// A key ring that holds the key of the probes and no other.
pub fn keys() -> Result<KeyRing, ProbeError> {
    let (id, not_before, not_after) = (KEY_ID.to_owned(), None, None);
    let entry = SigningKeyEntry { id, key: key().verifying_key(), not_before, not_after };
    KeyRing::new(vec![entry], []).map_err(failed)
}

/// Makes the error of a probe whose preparation failed.
pub fn failed(error: impl std::fmt::Display) -> ProbeError {
    ProbeError::Control(error.to_string())
}

/// A command for this endpoint that has never been sent.
#[derive(Clone)]
pub struct Envelope(Value);

impl Envelope {
    /// Makes an envelope that orders `echo`.
    pub fn new(now: Timestamp) -> Self {
        let nonce = [*Uuid::new_v4().as_bytes(), *Uuid::new_v4().as_bytes()].concat();
        Self(json!({
            "type": "CommandEnvelope",
            "command_id": Uuid::new_v4().to_string(),
            "tenant_id": TENANT,
            "target_endpoint_id": ENDPOINT,
            "correlation_id": "redteam",
            "session_id": SESSION,
            "tool": "echo",
            "params": {"message": "hello"},
            "operator": {"kind": "human", "id": "redteam", "originating_human_id": "redteam"},
            "lifecycle_state": "dispatched",
            "issued_at": now,
            "expires_at": now.plus_millis(LIFE_MS),
            "nonce": URL_SAFE_NO_PAD.encode(nonce),
            "signing_key_id": KEY_ID,
            "signature_algo": signing::ALGORITHM,
            "signature": "",
        }))
    }

    /// Makes an envelope that orders this tool with these parameters.
    pub fn of(now: Timestamp, tool: &str, params: Value) -> Self {
        Self::new(now).with("tool", json!(tool)).with("params", params)
    }

    /// Changes one field. The signature does not cover the change until the envelope is signed again.
    pub fn with(mut self, field: &str, value: Value) -> Self {
        if let Some(fields) = self.0.as_object_mut() {
            fields.insert(field.to_owned(), value);
        }
        self
    }

    /// Id of the command.
    pub fn id(&self) -> &str {
        self.0.get("command_id").and_then(Value::as_str).unwrap_or_default()
    }

    /// The canonical bytes that a signature covers.
    pub fn canonical(&self) -> Result<Vec<u8>, ProbeError> {
        Ok(Json::from_value(&self.0).map_err(failed)?.canonical())
    }

    /// Signature of the envelope in a domain.
    pub fn signature(&self, domain: Domain) -> Result<[u8; 64], ProbeError> {
        Ok(signing::sign(&key(), domain, &self.canonical()?))
    }

    /// The text that a relay sends.
    pub fn signed(&self) -> Result<String, ProbeError> {
        self.signed_as(Domain::CommandEnvelope)
    }

    /// The text that a relay sends, signed in a domain.
    pub fn signed_as(&self, domain: Domain) -> Result<String, ProbeError> {
        let signature = STANDARD.encode(self.signature(domain)?);
        Ok(self.clone().with("signature", json!(signature)).0.to_string())
    }
}
