//! Signatures of the protocol, `ed25519-jcs-sha256-v1`: Ed25519 over the SHA-256 of a domain's
//! prefix and the canonical bytes. The domains keep a signature for one use from serving another.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::canonical::{CanonicalError, canonical_bytes};
pub use super::domain::Domain;
use super::shape::hex_of_bytes;

/// Field `signature_algo` of everything signed this way.
pub const ALGORITHM: &str = "ed25519-jcs-sha256-v1";

/// SHA-256 of the domain's prefix and the canonical bytes.
pub fn digest(domain: Domain, canonical: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(domain.prefix()).chain_update(canonical).finalize().into()
}

/// Signs the [`digest`].
pub fn sign(key: &SigningKey, domain: Domain, canonical: &[u8]) -> [u8; 64] {
    key.sign(&digest(domain, canonical)).to_bytes()
}

/// Whether the signature over the [`digest`] is right. Strict: keys and commitments of small order
/// are refused, so that one signature never fits two messages.
pub fn verify(key: &VerifyingKey, domain: Domain, canonical: &[u8], signature: &[u8; 64]) -> bool {
    verify_digest(key, &digest(domain, canonical), signature)
}

/// [`verify`] of a digest that is known already.
pub fn verify_digest(key: &VerifyingKey, digest: &[u8; 32], signature: &[u8; 64]) -> bool {
    key.verify_strict(digest, &Signature::from_bytes(signature)).is_ok()
}

/// A hash as the protocol writes it: `sha256:` and 64 lower-case hex digits.
pub fn sha256_text(bytes: &[u8]) -> String {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    format!("sha256:{}", hex_of_bytes(&digest))
}

/// What an endpoint signs to open a connection. `ts` must be the very string of the proof.
pub fn connection_proof_bytes(
    endpoint_id: &str,
    tenant_id: &str,
    ts: &str,
) -> Result<Vec<u8>, CanonicalError> {
    #[derive(Serialize)]
    struct Proof<'a> {
        endpoint_id: &'a str,
        tenant_id: &'a str,
        ts: &'a str,
    }
    canonical_bytes(&Proof { endpoint_id, tenant_id, ts })
}

#[cfg(test)]
mod tests;
