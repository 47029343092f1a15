//! A good envelope, to be made bad.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};

use super::super::*;
use crate::keyring::SigningKeyEntry;
use crate::signing::{Domain, sign};

/// 2026-01-02T03:04:05.678Z
pub const NOW: Timestamp = Timestamp::from_millis(1_767_323_045_678);

pub const AUDIENCE: Audience<'static> = Audience {
    endpoint_id: "dc4a8b19-91c5-4c30-b66d-549dc96aea71",
    tenant_id: "6e5b2e09-42f7-474d-a196-14a731771b84",
    session_id: "65b162bd-0578-4700-82a5-a3458aba016d",
};

pub const KEY_ID: &str = "6e5b2e09-42f7-474d-a196-14a731771b84/key-v1";

pub const OTHER_UUID: &str = "00000000-0000-4000-8000-000000000000";

#[derive(Clone)]
pub struct Sample {
    pub value: Value,
    pub key: SigningKey,
}

impl Sample {
    pub fn new() -> Self {
        Self::with_key(0)
    }

    pub fn with_key(seed: u8) -> Self {
        let value = json!({
            "type": "CommandEnvelope",
            "command_id": "3f2b8c1e-7d4a-4e9b-9c55-0123456789ab",
            "tenant_id": AUDIENCE.tenant_id,
            "target_endpoint_id": AUDIENCE.endpoint_id,
            "correlation_id": "corr-0001",
            "session_id": AUDIENCE.session_id,
            "tool": "echo",
            "params": {"message": "hello"},
            "operator": {
                "kind": "human", "id": "operator@local", "originating_human_id": "operator@local",
            },
            "lifecycle_state": "dispatched",
            "issued_at": NOW,
            "expires_at": NOW.plus_millis(300_000),
            "nonce": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
            "signing_key_id": KEY_ID,
            "signature_algo": ALGORITHM,
            "signature": "",
        });
        Self { value, key: SigningKey::from_bytes(&[seed; 32]) }
    }

    /// Another value for a field; `null` where a field of that name was not makes one.
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.value[field] = value;
        self
    }

    pub fn without(mut self, field: &str) -> Self {
        assert!(self.value.as_object_mut().unwrap().remove(field).is_some(), "{field}");
        self
    }

    pub fn text(&self, field: &str) -> &str {
        self.value[field].as_str().unwrap()
    }

    /// The text with the right signature; as it is where the field has been taken away.
    pub fn signed(&self) -> String {
        let mut value = self.value.clone();
        if value["signature"] == "" {
            let canonical = Json::from_value(&value).unwrap().canonical();
            let signature = sign(&self.key, Domain::CommandEnvelope, &canonical);
            value["signature"] = STANDARD.encode(signature).into();
        }
        value.to_string()
    }
}

pub fn keys() -> KeyRing {
    let key = Sample::new().key.verifying_key();
    let entry = |id: &str, not_before, not_after| SigningKeyEntry {
        id: id.into(),
        key,
        not_before,
        not_after,
    };
    let keys = vec![
        entry(KEY_ID, None, None),
        entry("revoked", None, None),
        entry("early", Some(NOW.plus_millis(1)), None),
        entry("late", None, Some(NOW.plus_millis(-1))),
    ];
    KeyRing::new(keys, ["revoked".to_owned()]).unwrap()
}

/// The checks as the agent makes them.
pub fn check(text: &str) -> Result<CommandEnvelope, Refusal> {
    verify(text, &keys(), &AUDIENCE, NOW)
}

/// The code and the check of a refusal.
pub fn refused(text: &str) -> (&'static str, Check) {
    let refusal = check(text).expect_err(text);
    assert!(!refusal.message.is_empty() && refusal.message.len() < 1024, "{}", refusal.message);
    (refusal.code.as_str(), refusal.check)
}
