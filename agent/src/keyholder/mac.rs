//! The MAC that shows that a store of baselines was written by this endpoint.
//!
//! The key is derived from the endpoint's private key, so that it need not be kept, and in a way that
//! only the private key allows: the input of HKDF is an Ed25519 signature (deterministic, RFC 8032
//! 5.1.6) that is never shown.
//!
//! - secret: Ed25519 signature over SHA-256(`brainstorm-baseline-key-v1` 00);
//! - key: HKDF-SHA-256 (RFC 5869) of the secret, salt `brainstorm-baseline-key-v1` 00, info the
//!   endpoint's id, 32 bytes;
//! - MAC: HMAC-SHA-256 (RFC 2104) with that key over `brainstorm-baseline-store-v1` 00 and the digest.

use ed25519_dalek::SigningKey;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use protocol::signing::{Domain, sign};

/// The MAC of a store with this SHA-256; never none, with lengths as they are.
pub fn of_baselines(key: &SigningKey, endpoint_id: &str, digest: &[u8; 32]) -> Option<[u8; 32]> {
    let secret = Zeroizing::new(sign(key, Domain::BaselineKey, b""));
    let mut derived = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(Domain::BaselineKey.prefix()), &secret[..])
        .expand(endpoint_id.as_bytes(), &mut derived[..])
        .ok()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&derived[..]).ok()?;
    mac.update(Domain::BaselineStore.prefix());
    mac.update(digest);
    Some(mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_endpoint_and_content_all_count() {
        let key = |byte| SigningKey::from_bytes(&[byte; 32]);
        let mac = of_baselines(&key(1), "a", &[2; 32]).unwrap();
        assert_eq!(of_baselines(&key(1), "a", &[2; 32]), Some(mac));
        assert_ne!(of_baselines(&key(3), "a", &[2; 32]), Some(mac));
        assert_ne!(of_baselines(&key(1), "b", &[2; 32]), Some(mac));
        assert_ne!(of_baselines(&key(1), "a", &[4; 32]), Some(mac));
    }
}
