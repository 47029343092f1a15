//! The first frame of an endpoint and the proof in it.

use protocol::signing::{self, Domain};
use protocol::timestamp::Timestamp;
use serde_json::{Map, Value};

use super::Peer;
use crate::enrollment::decode_base64;
use crate::schema;
use crate::violation::ViolationKind;

/// How far a proof's time may be off, in milliseconds.
const MAX_SKEW_MS: i64 = 60_000;

/// A frame that is an `EndpointHello`, whatever else is wrong with it.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) endpoint_id: String,
    pub(super) tenant_id: String,
    pub(super) agent_version: String,
    /// Time and signature as they were sent.
    proof: Option<(String, String)>,
    /// What does not match the closed schema.
    pub(super) problems: Vec<String>,
}

/// Why a hello is refused: close code and reason.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) code: u16,
    pub(super) reason: &'static str,
}

fn problem(reason: &'static str) -> Problem {
    Problem { code: 1008, reason }
}

/// Reads the first frame; the error says why it is no hello.
pub(super) fn read(text: &str) -> Result<Hello, String> {
    let frame: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))?;
    if frame.get("type").and_then(Value::as_str) != Some("EndpointHello") {
        return Err("not an EndpointHello".to_owned());
    }
    let text =
        |name: &str| frame.get(name).and_then(Value::as_str).map(str::to_owned).unwrap_or_default();
    let proof = frame.get("connection_proof").map(|proof| {
        let part = |name: &str| proof[name].as_str().unwrap_or_default().to_owned();
        (part("ts"), part("signature"))
    });
    Ok(Hello {
        endpoint_id: text("endpoint_id"),
        tenant_id: text("tenant_id"),
        agent_version: text("agent_version"),
        proof,
        problems: schema::problems("EndpointHello", &frame).unwrap_or_default(),
    })
}

/// Checks a hello in the order relays do: enrollment, time, signature.
pub(super) fn check(peer: &Peer, hello: &Hello, text: &str) -> Result<(), Problem> {
    let (now, enrollment) = {
        let state = peer.shared.state();
        (state.now(), state.enrollments.get(&hello.endpoint_id).cloned())
    };
    let enrollment = enrollment.ok_or(problem("ENDPOINT_NOT_ENROLLED"))?;
    if hello.tenant_id != enrollment.tenant_id {
        let what = format!("tenant_id is not {}, the one of the enrollment", enrollment.tenant_id);
        peer.broke(ViolationKind::Schema, &what, text);
    }
    let Some((ts, signature)) = &hello.proof else {
        peer.broke(ViolationKind::KillsRelay, "a hello without connection_proof", text);
        return Err(problem("ENDPOINT_PROOF_MALFORMED"));
    };
    let at = Timestamp::parse(ts).ok_or(problem("ENDPOINT_PROOF_MALFORMED"))?;
    let age = now.millis().saturating_sub(at.millis());
    if age > MAX_SKEW_MS {
        return Err(problem("ENDPOINT_PROOF_EXPIRED"));
    }
    if age < -MAX_SKEW_MS {
        return Err(problem("ENDPOINT_PROOF_FUTURE_DATED"));
    }
    let signature = decode_base64(signature).ok_or(problem("ENDPOINT_PROOF_MALFORMED"))?;
    let Ok(signature) = <[u8; 64]>::try_from(signature) else {
        return Err(problem("ENDPOINT_PROOF_INVALID"));
    };
    let signed = signing::connection_proof_bytes(&hello.endpoint_id, &hello.tenant_id, ts)
        .map_err(|_| problem("ENDPOINT_PROOF_INVALID"))?;
    let Some(key) = enrollment.key() else {
        peer.broke(ViolationKind::KillsRelay, "a hello for an enrolled key that is none", text);
        return Err(problem("ENDPOINT_PROOF_INVALID"));
    };
    if signing::verify(&key, Domain::ConnectionProof, &signed, &signature) {
        Ok(())
    } else {
        Err(problem("ENDPOINT_PROOF_INVALID"))
    }
}
