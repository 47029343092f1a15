//! A signed command is good once, for one endpoint, in one session, and for nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::{Arena, AttackerClass, Expectation, Probe, ProbeError, Verdict};
use crate::protocol::code::ErrorCode;
use crate::protocol::signing::{self, Domain, connection_proof_bytes};
use crate::protocol::{Audience, Json, KeyRing, SigningKeyEntry, Timestamp, verify};
use crate::store::NonceStore;

/// Envelopes where they do not belong. Needs no machine.
pub const PROBE: Probe = Probe {
    name: "envelope-reuse",
    class: AttackerClass::A8,
    expectation: Expectation::ShouldFail,
    description: "A signed command is sent again, before and after a restart, to another endpoint \
                  and tenant, in another session, too late, changed, and as another kind of \
                  signature; then more of them come than can be remembered",
    repeats: false,
    run,
};

const KEY_ID: &str = "redteam/key";
const SESSION: &str = "11111111-1111-4111-8111-111111111111";
const ENDPOINT: &str = "22222222-2222-4222-8222-222222222222";
const TENANT: &str = "redteam";
const OTHER: &str = "33333333-3333-4333-8333-333333333333";
/// Nonces that the store of this probe can remember.
const CAPACITY: usize = 64;
/// An envelope's life, in milliseconds.
const LIFE_MS: i64 = 300_000;

fn run(arena: &Arena) -> Result<Verdict, ProbeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(attack(arena))
}

async fn attack(arena: &Arena) -> Result<Verdict, ProbeError> {
    let mut endpoint = Endpoint::new()?;
    let now = Timestamp::now();
    let good = Envelope::new(now);
    let text = good.signed(&endpoint.key)?;
    if let Err(code) = endpoint.admit(&text).await {
        return Err(ProbeError::Control(format!("a good envelope is refused with {code}")));
    }
    let mut tries = Tries::default();
    let replay = Err(ErrorCode::NonceReplay);
    tries.expect("again", replay, endpoint.admit(&text).await);
    endpoint.restart(arena.plan().leaves_out("nonces"))?;
    tries.expect("again after a restart", replay, endpoint.admit(&text).await);

    for (name, expected, field, value) in [
        ("for another endpoint", ErrorCode::WrongAudience, "target_endpoint_id", json!(OTHER)),
        ("for another tenant", ErrorCode::WrongAudience, "tenant_id", json!("another")),
        ("of another session", ErrorCode::SessionStale, "session_id", json!(OTHER)),
        ("by an unknown key", ErrorCode::SignatureInvalid, "signing_key_id", json!("another")),
        ("under another algorithm", ErrorCode::SignatureInvalid, "signature_algo", json!("none")),
    ] {
        let text = Envelope::new(now).with(field, value).signed(&endpoint.key)?;
        tries.expect(name, Err(expected), endpoint.admit(&text).await);
    }
    let changed = Envelope::new(now).signed(&endpoint.key)?.replace("\"echo\"", "\"shell\"");
    let invalid = Err(ErrorCode::SignatureInvalid);
    tries.expect("changed after it was signed", invalid, endpoint.admit(&changed).await);
    let text = Envelope::new(now).signed_as(&endpoint.key, Domain::ConnectionProof)?;
    tries.expect("with the signature of a proof", invalid, endpoint.admit(&text).await);
    for (name, by, code) in [
        ("too late", -2 * LIFE_MS, ErrorCode::EnvelopeExpired),
        ("too early", LIFE_MS, ErrorCode::EnvelopeFutureDated),
    ] {
        let text = Envelope::new(now.plus_millis(by)).signed(&endpoint.key)?;
        tries.expect(name, Err(code), endpoint.admit(&text).await);
    }
    tries.expect_false("an envelope's signature as a proof", endpoint.proves(&good, now)?);

    let full = loop {
        let text = Envelope::new(now).signed(&endpoint.key)?;
        let answer = endpoint.admit(&text).await;
        if answer.is_err() || tries.flooded > 2 * CAPACITY {
            break answer;
        }
        tries.flooded += 1;
    };
    tries.expect("one more than can be remembered", Err(ErrorCode::NonceCacheFull), full);
    // What was remembered has not made room for others.
    let text = good.signed(&endpoint.key)?;
    tries.expect("the first one again", replay, endpoint.admit(&text).await);
    Ok(tries.verdict())
}

/// As much of an endpoint as decides whether it takes an envelope.
struct Endpoint {
    key: SigningKey,
    keys: KeyRing,
    directory: PathBuf,
    nonces: Option<NonceStore>,
}

impl Endpoint {
    fn new() -> Result<Self, ProbeError> {
        // Nobody else believes this key.
        let key = SigningKey::from_bytes(&[7; 32]);
        let (id, not_before, not_after) = (KEY_ID.to_owned(), None, None);
        let entry = SigningKeyEntry { id, key: key.verifying_key(), not_before, not_after };
        let keys = KeyRing::new(vec![entry], []).map_err(failed)?;
        let directory = std::env::temp_dir().join(format!("redteam-{}", Uuid::new_v4()));
        fs::create_dir(&directory)?;
        let nonces = Some(open(&directory)?);
        Ok(Self { key, keys, directory, nonces })
    }

    /// Opens the nonces again, or others if they are not to be kept.
    fn restart(&mut self, forgets: bool) -> Result<(), ProbeError> {
        self.nonces = None;
        if forgets {
            fs::remove_dir_all(&self.directory)?;
            fs::create_dir(&self.directory)?;
        }
        self.nonces = Some(open(&self.directory)?);
        Ok(())
    }

    async fn admit(&self, text: &str) -> Result<(), ErrorCode> {
        let (now, audience) = (
            Timestamp::now(),
            Audience { endpoint_id: ENDPOINT, tenant_id: TENANT, session_id: SESSION },
        );
        let envelope = verify(text, &self.keys, &audience, now).map_err(|refusal| refusal.code)?;
        let Some(nonces) = &self.nonces else { return Err(ErrorCode::Internal) };
        let (nonce, id) = (&envelope.nonce, &envelope.command_id);
        nonces.spend(nonce, id, envelope.expires_at, now).await.map_err(|error| error.code())
    }

    /// Whether an envelope's signature opens a connection.
    fn proves(&self, envelope: &Envelope, now: Timestamp) -> Result<bool, ProbeError> {
        let signature = envelope.signature(&self.key, Domain::CommandEnvelope)?;
        let proof = connection_proof_bytes(ENDPOINT, TENANT, &now.to_string()).map_err(failed)?;
        let key = self.key.verifying_key();
        let own = signing::sign(&self.key, Domain::ConnectionProof, &proof);
        if !signing::verify(&key, Domain::ConnectionProof, &proof, &own) {
            return Err(ProbeError::Control("a proof of its own is not one".into()));
        }
        let canonical = envelope.canonical()?;
        Ok(signing::verify(&key, Domain::ConnectionProof, &proof, &signature)
            || signing::verify(&key, Domain::ConnectionProof, &canonical, &signature))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.nonces = None;
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn open(directory: &Path) -> Result<NonceStore, ProbeError> {
    NonceStore::open_anywhere(&directory.join("nonces.db"), CAPACITY).map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> ProbeError {
    ProbeError::Control(error.to_string())
}

/// A command for this endpoint that has never been sent.
struct Envelope(Value);

impl Envelope {
    fn new(now: Timestamp) -> Self {
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

    fn with(mut self, field: &str, value: Value) -> Self {
        if let Some(fields) = self.0.as_object_mut() {
            fields.insert(field.to_owned(), value);
        }
        self
    }

    fn canonical(&self) -> Result<Vec<u8>, ProbeError> {
        Ok(Json::from_value(&self.0).map_err(failed)?.canonical())
    }

    fn signature(&self, key: &SigningKey, domain: Domain) -> Result<[u8; 64], ProbeError> {
        Ok(signing::sign(key, domain, &self.canonical()?))
    }

    fn signed(&self, key: &SigningKey) -> Result<String, ProbeError> {
        self.signed_as(key, Domain::CommandEnvelope)
    }

    fn signed_as(&self, key: &SigningKey, domain: Domain) -> Result<String, ProbeError> {
        let signature = STANDARD.encode(self.signature(key, domain)?);
        Ok(Self(self.0.clone()).with("signature", json!(signature)).0.to_string())
    }
}

/// What was tried, and what came of it.
#[derive(Default)]
struct Tries {
    breaches: Vec<String>,
    seen: Vec<Value>,
    flooded: usize,
}

impl Tries {
    fn expect(
        &mut self,
        name: &str,
        expected: Result<(), ErrorCode>,
        found: Result<(), ErrorCode>,
    ) {
        let told = found.map_or_else(|code| code.to_string(), |()| "taken".to_owned());
        if found != expected {
            self.breaches.push(format!("{name}: {told}"));
        }
        self.seen.push(json!({"envelope": name, "came_to": told}));
    }

    fn expect_false(&mut self, name: &str, found: bool) {
        if found {
            self.breaches.push(format!("{name} is taken"));
        }
        self.seen.push(json!({"envelope": name, "taken": found}));
    }

    fn verdict(self) -> Verdict {
        let held = format!("{} uses of an envelope, each refused with its code", self.seen.len());
        let evidence = json!({"tries": self.seen, "remembered": self.flooded + 1});
        Verdict::of(&self.breaches, held, evidence)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::redteam::{Plan, Selection};
    use crate::sandbox::{ImageSource, SandboxConfig};

    fn verdict(without: &[&str]) -> Verdict {
        run(&Arena::new(Plan {
            sandbox: SandboxConfig::new(ImageSource::directory("/nonexistent")),
            selection: Selection::All,
            iterations: 1,
            machines: 2,
            budget: Duration::from_secs(30),
            gates: true,
            without: without.iter().map(|name| (*name).to_owned()).collect(),
        }))
        .unwrap()
    }

    #[test]
    fn every_use_of_an_envelope_but_the_first_is_refused() {
        let verdict = verdict(&[]);
        assert!(verdict.passed, "{}", verdict.reason);
        assert_eq!(verdict.evidence["remembered"], CAPACITY);
    }

    #[test]
    fn an_endpoint_that_forgets_its_nonces_is_caught() {
        let verdict = verdict(&["nonces"]);
        assert!(!verdict.passed);
        assert!(verdict.reason.contains("again after a restart: taken"), "{}", verdict.reason);
    }
}
