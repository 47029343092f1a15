use ed25519_dalek::Verifier;

use super::*;

/// Under a key of small order this signature fits every message, for a verifier that is not strict.
#[test]
fn a_signature_that_fits_every_message_fits_none() {
    let mut identity = [0; 32];
    identity[0] = 1;
    let key = VerifyingKey::from_bytes(&identity).unwrap();
    let mut signature = [0; 64];
    signature[0] = 1;
    let digest = digest(Domain::CommandEnvelope, b"{}");
    assert!(key.verify(&digest, &Signature::from_bytes(&signature)).is_ok(), "a lax verifier");
    assert!(!verify_digest(&key, &digest, &signature));
    assert!(!verify(&key, Domain::CommandEnvelope, b"{}", &signature));
}

#[test]
fn a_hash_is_written_in_lower_case_hex() {
    let of_nothing = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(sha256_text(b""), of_nothing);
}
