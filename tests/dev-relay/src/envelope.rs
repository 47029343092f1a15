//! Command envelopes: good ones, and every kind of bad one.
//!
//! A field is kept as JSON text, so that spellings a JSON value cannot hold (numbers out of range,
//! decomposed letters, nesting of any depth, a key twice) reach the wire as they were written.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use protocol::canonical::{CanonicalError, Json};
use protocol::signing::{self, Domain};
use protocol::timestamp::Timestamp;
use serde_json::Value;

use crate::random;

/// How long an envelope is good for, in milliseconds.
const LIFETIME_MS: i64 = 5 * 60 * 1000;

/// Why an envelope cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// What is signed is the canonical form.
    #[error("the envelope has no canonical form; change it after signing instead: {0}")]
    NotCanonical(#[from] CanonicalError),
}

/// What the sender of an envelope decides; the rest is made up.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// The endpoint it is for.
    pub endpoint_id: &'a str,
    /// The tenant that signs it.
    pub tenant_id: &'a str,
    /// The session it is sent in.
    pub session_id: &'a str,
    /// The key it is signed with.
    pub signing_key_id: &'a str,
    /// What the sender finds its command again by.
    pub correlation_id: &'a str,
    /// Who wants the command.
    pub operator: &'a Value,
    /// The tool to run.
    pub tool: &'a str,
    /// Parameters of the tool.
    pub params: &'a Value,
    /// When it is issued.
    pub now: Timestamp,
}

/// An envelope whose fields can be changed before it is signed.
#[derive(Debug, Clone)]
pub struct EnvelopeBuilder {
    fields: OrderedFields,
    key: SigningKey,
    domain: Domain,
}

impl EnvelopeBuilder {
    /// A good envelope with a fresh command and nonce, keys in the order relays write them.
    pub fn new(draft: &Draft<'_>, key: SigningKey) -> Self {
        let mut fields = OrderedFields::default();
        let expires_at = Timestamp::from_millis(draft.now.millis().saturating_add(LIFETIME_MS));
        let mut add = |name: &str, value: Value| fields.set(name, value.to_string());
        add("type", "CommandEnvelope".into());
        add("command_id", random::uuid().into());
        add("tenant_id", draft.tenant_id.into());
        add("target_endpoint_id", draft.endpoint_id.into());
        add("correlation_id", draft.correlation_id.into());
        add("session_id", draft.session_id.into());
        add("tool", draft.tool.into());
        add("params", draft.params.clone());
        add("operator", draft.operator.clone());
        add("lifecycle_state", "dispatched".into());
        add("issued_at", draft.now.to_string().into());
        add("expires_at", expires_at.to_string().into());
        add("nonce", random::text().into());
        add("signing_key_id", draft.signing_key_id.into());
        add("signature_algo", signing::ALGORITHM.into());
        Self { fields, key, domain: Domain::CommandEnvelope }
    }

    /// Sets a field, in place when it is there already.
    #[must_use]
    pub fn field(self, name: &str, value: impl Into<Value>) -> Self {
        let json = value.into().to_string();
        self.raw_field(name, &json)
    }

    /// Sets a field to JSON text, which is not checked.
    #[must_use]
    pub fn raw_field(mut self, name: &str, json: &str) -> Self {
        self.fields.set(name, json.to_owned());
        self
    }

    /// Leaves a field out.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.fields.remove(name);
        self
    }

    /// Dates the envelope: issued at `issued_at`, good until `expires_at`.
    #[must_use]
    pub fn times(self, issued_at: Timestamp, expires_at: Timestamp) -> Self {
        self.field("issued_at", issued_at.to_string()).field("expires_at", expires_at.to_string())
    }

    /// Signs with another key than the tenant's.
    #[must_use]
    pub fn key(mut self, key: SigningKey) -> Self {
        self.key = key;
        self
    }

    /// Signs for another purpose than command envelopes.
    #[must_use]
    pub fn domain(mut self, domain: Domain) -> Self {
        self.domain = domain;
        self
    }

    /// The value of a text field.
    pub fn text_of(&self, name: &str) -> Option<String> {
        self.fields.text_of(name)
    }

    /// Signs the envelope as it is now.
    pub fn sign(mut self) -> Result<Envelope, EnvelopeError> {
        self.fields.set("signature", "\"\"".to_owned());
        let canonical = Json::parse(&self.fields.to_json())?.canonical();
        let signature = signing::sign(&self.key, self.domain, &canonical);
        self.fields.set("signature", Value::from(STANDARD.encode(signature)).to_string());
        Ok(Envelope { fields: self.fields })
    }
}

/// A signed envelope. Changing it breaks the signature, or is meant not to.
#[derive(Debug, Clone)]
pub struct Envelope {
    fields: OrderedFields,
}

impl Envelope {
    /// Sets a field, in place when it is there already.
    #[must_use]
    pub fn field(self, name: &str, value: impl Into<Value>) -> Self {
        let json = value.into().to_string();
        self.raw_field(name, &json)
    }

    /// Sets a field to JSON text, which is not checked.
    #[must_use]
    pub fn raw_field(mut self, name: &str, json: &str) -> Self {
        self.fields.set(name, json.to_owned());
        self
    }

    /// Leaves a field out.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.fields.remove(name);
        self
    }

    /// Puts the field in front once more, with another value: a reader that lets the last of two
    /// equal keys win sees the signed value.
    #[must_use]
    pub fn duplicate(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.0.insert(0, (name.to_owned(), value.into().to_string()));
        self
    }

    /// The command, when it has one.
    pub fn command_id(&self) -> Option<String> {
        self.fields.text_of("command_id")
    }

    /// The frame.
    pub fn text(&self) -> String {
        self.fields.to_json()
    }
}

/// Fields in the order they are written, each with its JSON text.
#[derive(Debug, Clone, Default)]
struct OrderedFields(Vec<(String, String)>);

impl OrderedFields {
    fn set(&mut self, name: &str, json: String) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, value)) => *value = json,
            None => self.0.push((name.to_owned(), json)),
        }
    }

    fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }

    fn text_of(&self, name: &str) -> Option<String> {
        let (_, json) = self.0.iter().find(|(known, _)| known == name)?;
        serde_json::from_str(json).ok()
    }

    fn to_json(&self) -> String {
        let mut json = String::from("{");
        for (place, (name, value)) in self.0.iter().enumerate() {
            if place > 0 {
                json.push(',');
            }
            // Writing to a string cannot fail.
            let _ = write!(json, "{}:{value}", Value::from(name.as_str()));
        }
        json.push('}');
        json
    }
}

#[cfg(test)]
mod tests {
    use protocol::signing;
    use serde_json::json;

    use super::*;

    fn builder() -> EnvelopeBuilder {
        let draft = Draft {
            endpoint_id: "dc4a8b19-91c5-4c30-b66d-549dc96aea71",
            tenant_id: "6e5b2e09-42f7-474d-a196-14a731771b84",
            session_id: "65b162bd-0578-4700-82a5-a3458aba016d",
            signing_key_id: "6e5b2e09-42f7-474d-a196-14a731771b84/key-v1",
            correlation_id: "corr-0001",
            operator: &json!({"kind": "human", "id": "operator@local",
                "originating_human_id": "operator@local"}),
            tool: "echo",
            params: &json!({"message": "hello"}),
            now: Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap(),
        };
        let seed: [u8; 32] = std::array::from_fn(|place| u8::try_from(place).unwrap());
        EnvelopeBuilder::new(&draft, SigningKey::from_bytes(&seed))
    }

    /// The published vector: the same order, command and nonce give the same signature.
    #[test]
    fn signs_as_relays_in_the_field_do() {
        let envelope = builder()
            .field("command_id", "3f2b8c1e-7d4a-4e9b-9c55-0123456789ab")
            .field("nonce", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")
            .sign()
            .unwrap();
        assert_eq!(
            envelope.fields.text_of("signature").unwrap(),
            "2cPyvM7m0Rhvsg2oSOde8BTSBf3KdohAWRdFtPEkHMMpygV25Fsr4mJTUIwqKE5DWKdd90Wbg+TfpG6Tg5k2Bg=="
        );
        assert!(envelope.text().starts_with(
            r#"{"type":"CommandEnvelope","command_id":"3f2b8c1e-7d4a-4e9b-9c55-0123456789ab","tenant_id":"#
        ));
    }

    #[test]
    fn a_field_changed_after_signing_breaks_the_signature() {
        let envelope = builder().sign().unwrap();
        let verifies = |envelope: &Envelope| {
            let signature = STANDARD.decode(envelope.fields.text_of("signature").unwrap()).unwrap();
            let unsigned = envelope.clone().field("signature", "");
            let canonical = Json::parse(&unsigned.text()).unwrap().canonical();
            let key = builder().key.verifying_key();
            let signature: [u8; 64] = signature.try_into().unwrap();
            signing::verify(&key, Domain::CommandEnvelope, &canonical, &signature)
        };
        assert!(verifies(&envelope));
        assert!(!verifies(&envelope.clone().field("tool", "sh")));
        assert!(!verifies(&envelope.without("correlation_id")));
        assert!(!verifies(&builder().domain(Domain::ConnectionProof).sign().unwrap()));
    }

    #[test]
    fn spellings_no_value_can_hold_reach_the_wire() {
        let signed = builder().raw_field("params", r#"{"message":"e\u0301"}"#).sign().unwrap();
        assert!(signed.text().contains(r#"{"message":"e\u0301"}"#));
        let twice = signed.duplicate("tool", "sh").text();
        assert!(twice.starts_with(r#"{"tool":"sh","type":"CommandEnvelope""#));
        assert!(twice.contains(r#""tool":"echo""#));
        let infinite = builder().raw_field("params", r#"{"n":1e400}"#);
        assert!(infinite.clone().sign().is_err());
        let later = builder().sign().unwrap().raw_field("params", r#"{"n":1e400}"#);
        assert!(later.text().contains("1e400"));
    }
}
