//! A signed command is good once, for one endpoint, in one session, and for nothing else.

use std::path::Path;

use serde_json::{Value, json};

use super::signer::{self, ENDPOINT, Envelope, LIFE_MS, OTHER, SESSION, TENANT, failed};
use crate::scratch::Scratch;
use crate::{AttackerClass, Expectation, FnProbe, ProbeError, Testbed, Verdict};
use brainstorm_agent::store::NonceStore;
use protocol::code::ErrorCode;
use protocol::signing::{self, Domain, connection_proof_bytes};
use protocol::{Audience, KeyRing, Timestamp, verify};

/// An attacker sends envelopes where they do not belong. This probe needs no machine.
pub const PROBE: FnProbe = FnProbe {
    name: "envelope-reuse",
    class: AttackerClass::A8,
    expectation: Expectation::ShouldFail,
    description: "A signed command is sent again, before and after a restart, to another endpoint \
                  and tenant, in another session, too late, changed, and as another kind of \
                  signature; then more of them come than can be remembered",
    repeats: false,
    run,
};

/// Number of nonces that the store of this probe can remember.
const CAPACITY: usize = 64;

fn run(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(attack(testbed))
}

async fn attack(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let mut endpoint = Endpoint::new()?;
    let now = Timestamp::now();
    let good = Envelope::new(now);
    let text = good.signed()?;
    if let Err(code) = endpoint.admit(&text).await {
        return Err(ProbeError::Control(format!("a good envelope is refused with {code}")));
    }
    let mut tries = Tries::default();
    let replay = Err(ErrorCode::NonceReplay);
    tries.expect("again", replay, endpoint.admit(&text).await);
    endpoint.restart(testbed.plan().leaves_out("nonces"))?;
    tries.expect("again after a restart", replay, endpoint.admit(&text).await);

    for (name, expected, field, value) in [
        ("for another endpoint", ErrorCode::WrongAudience, "target_endpoint_id", json!(OTHER)),
        ("for another tenant", ErrorCode::WrongAudience, "tenant_id", json!("another")),
        ("of another session", ErrorCode::SessionStale, "session_id", json!(OTHER)),
        ("by an unknown key", ErrorCode::SignatureInvalid, "signing_key_id", json!("another")),
        ("under another algorithm", ErrorCode::SignatureInvalid, "signature_algo", json!("none")),
    ] {
        let text = Envelope::new(now).with(field, value).signed()?;
        tries.expect(name, Err(expected), endpoint.admit(&text).await);
    }
    let changed = Envelope::new(now).signed()?.replace("\"echo\"", "\"shell\"");
    let invalid = Err(ErrorCode::SignatureInvalid);
    tries.expect("changed after it was signed", invalid, endpoint.admit(&changed).await);
    let text = Envelope::new(now).signed_as(Domain::ConnectionProof)?;
    tries.expect("with the signature of a proof", invalid, endpoint.admit(&text).await);
    for (name, by, code) in [
        ("too late", -2 * LIFE_MS, ErrorCode::EnvelopeExpired),
        ("too early", LIFE_MS, ErrorCode::EnvelopeFutureDated),
    ] {
        let text = Envelope::new(now.plus_millis(by)).signed()?;
        tries.expect(name, Err(code), endpoint.admit(&text).await);
    }
    tries.expect_false("an envelope's signature as a proof", Endpoint::proves(&good, now)?);

    let full = loop {
        let text = Envelope::new(now).signed()?;
        let answer = endpoint.admit(&text).await;
        if answer.is_err() || tries.flooded > 2 * CAPACITY {
            break answer;
        }
        tries.flooded += 1;
    };
    tries.expect("one more than can be remembered", Err(ErrorCode::NonceCacheFull), full);
    // What was remembered has not made room for others.
    let text = good.signed()?;
    tries.expect("the first one again", replay, endpoint.admit(&text).await);
    Ok(tries.verdict())
}

/// The parts of an endpoint that decide whether it takes an envelope.
struct Endpoint {
    keys: KeyRing,
    /// The store of nonces, closed before its directory is removed.
    nonces: Option<NonceStore>,
    directory: Scratch,
}

impl Endpoint {
    fn new() -> Result<Self, ProbeError> {
        let keys = signer::keys()?;
        let directory = Scratch::new()?;
        let nonces = Some(open(directory.path())?);
        Ok(Self { keys, nonces, directory })
    }

    /// Opens the nonces again, or an empty store where the endpoint forgets.
    fn restart(&mut self, forgets: bool) -> Result<(), ProbeError> {
        self.nonces = None;
        if forgets {
            self.directory = Scratch::new()?;
        }
        self.nonces = Some(open(self.directory.path())?);
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
    fn proves(envelope: &Envelope, now: Timestamp) -> Result<bool, ProbeError> {
        let signature = envelope.signature(Domain::CommandEnvelope)?;
        let proof = connection_proof_bytes(ENDPOINT, TENANT, &now.to_string()).map_err(failed)?;
        let signer = signer::key();
        let key = signer.verifying_key();
        let own = signing::sign(&signer, Domain::ConnectionProof, &proof);
        if !signing::verify(&key, Domain::ConnectionProof, &proof, &own) {
            return Err(ProbeError::Control("a proof of its own is not one".into()));
        }
        let canonical = envelope.canonical()?;
        Ok(signing::verify(&key, Domain::ConnectionProof, &proof, &signature)
            || signing::verify(&key, Domain::ConnectionProof, &canonical, &signature))
    }
}

fn open(directory: &Path) -> Result<NonceStore, ProbeError> {
    NonceStore::open_anywhere(&directory.join("nonces.db"), CAPACITY).map_err(failed)
}

/// Uses of an envelope, and what became of each.
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
    use super::*;
    use crate::Plan;

    fn verdict(without: &[&str]) -> Verdict {
        run(&Testbed::new(Plan::for_tests(without))).unwrap()
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
