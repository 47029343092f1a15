use ed25519_dalek::VerifyingKey;

use super::*;
use protocol::signing::verify;

fn held() -> LoadedKey {
    let key = Box::new(SigningKey::from_bytes(&std::array::from_fn(|at| 0x20 + at as u8)));
    let public = PublicIdentity {
        endpoint_id: "dc4a8b19-91c5-4c30-b66d-549dc96aea71".to_owned(),
        tenant_id: "6e5b2e09-42f7-474d-a196-14a731771b84".to_owned(),
        relay: "wss://relay.example".to_owned(),
        public_key: key.verifying_key().to_bytes(),
    };
    LoadedKey { public, key }
}

#[test]
fn a_proof_is_the_one_of_the_protocol() {
    let held = held();
    let ts = Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap();
    let signature = held.proof(ts, ts).unwrap();
    let canonical = br#"{"endpoint_id":"dc4a8b19-91c5-4c30-b66d-549dc96aea71","tenant_id":"6e5b2e09-42f7-474d-a196-14a731771b84","ts":"2026-01-02T03:04:05.678Z"}"#;
    let key = VerifyingKey::from_bytes(&held.public.public_key).unwrap();
    assert!(verify(&key, Domain::ConnectionProof, canonical, &signature));
    assert!(!verify(&key, Domain::CommandEnvelope, canonical, &signature));
}

#[test]
fn proofs_are_for_now_only() {
    let held = held();
    let now = Timestamp::now();
    for (off, signed) in
        [(0, true), (60_000, true), (-60_000, true), (60_001, false), (-60_001, false)]
    {
        assert_eq!(held.proof(now.plus_millis(off), now).is_some(), signed, "{off}");
    }
    assert!(held.proof(Timestamp::from_millis(i64::MAX), now).is_none());
    assert!(held.proof(Timestamp::from_millis(i64::MIN), now).is_none());
}
