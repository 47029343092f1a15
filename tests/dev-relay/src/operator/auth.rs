//! The HMAC by which an operator's frames are authenticated.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use protocol::canonical::{CanonicalError, Json};
use protocol::signing::Domain;
use serde_json::Value;
use sha2::Sha256;

use crate::enrollment::decode_base64;

/// Salt of the key derivation.
const SALT: &[u8] = b"brainstorm-relay-operator-hmac-v1";

/// The key of one operator at one tenant: HKDF-SHA-256 of the API key.
#[derive(Clone)]
pub struct OperatorKey([u8; 32]);

/// What to do about a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// No proof, or none of a known shape.
    #[error(
        "auth_proof must be {{mode: hmac, signature}} or {{kind: hmac_signed_envelope, signature}}"
    )]
    Malformed,
    /// A shape the protocol reserves for later.
    #[error("only HMAC proofs are supported")]
    NotSupported,
    /// A proof of something else.
    #[error("the signature does not match")]
    Invalid,
}

impl ProofError {
    /// The code operators see.
    pub fn code(self) -> &'static str {
        match self {
            Self::Malformed => "AUTH_MALFORMED",
            Self::NotSupported => "AUTH_MODE_NOT_SUPPORTED",
            Self::Invalid => "AUTH_INVALID_PROOF",
        }
    }
}

impl OperatorKey {
    /// Derives the key. The identifiers go in as they are, unquoted and not normalised.
    pub fn derive(api_key: &str, operator_id: &str, tenant_id: &str) -> Self {
        let info = format!("operator_id|{operator_id}|tenant_id|{tenant_id}");
        let mut key = [0; 32];
        // 32 bytes are well within what HKDF can give: 255 times 32.
        let expanded =
            Hkdf::<Sha256>::new(Some(SALT), api_key.as_bytes()).expand(info.as_bytes(), &mut key);
        debug_assert!(expanded.is_ok());
        Self(key)
    }

    /// The key's bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Fills in `operator.auth_proof.signature` of a frame that has an `auth_proof`.
    pub fn sign(&self, frame: &mut Value) -> Result<(), CanonicalError> {
        let signature = STANDARD.encode(self.mac(frame)?.finalize().into_bytes());
        if let Some(place) = frame.pointer_mut("/operator/auth_proof/signature") {
            *place = signature.into();
        }
        Ok(())
    }

    /// Checks the proof of a frame, in either of the two shapes in use.
    pub fn verify(&self, frame: &Value) -> Result<(), ProofError> {
        let proof = frame["operator"]["auth_proof"].as_object().ok_or(ProofError::Malformed)?;
        let known =
            |name: &str, value: &str| proof.get(name).and_then(Value::as_str) == Some(value);
        if known("kind", "jwt") || known("kind", "caf_mtls") {
            return Err(ProofError::NotSupported);
        }
        let shaped = known("mode", "hmac") || known("kind", "hmac_signed_envelope");
        let signature = proof.get("signature").and_then(Value::as_str);
        let (Some(signature), true, 2) = (signature, shaped, proof.len()) else {
            return Err(ProofError::Malformed);
        };
        let signature = decode_base64(signature).ok_or(ProofError::Invalid)?;
        let mac = self.mac(frame).map_err(|_| ProofError::Invalid)?;
        mac.verify_slice(&signature).map_err(|_| ProofError::Invalid)
    }

    /// Over the frame with an empty signature, behind the domain's prefix.
    fn mac(&self, frame: &Value) -> Result<Hmac<Sha256>, CanonicalError> {
        let mut unsigned = frame.clone();
        if let Some(place) = unsigned.pointer_mut("/operator/auth_proof/signature") {
            *place = "".into();
        }
        let canonical = Json::from_value(&unsigned)?.canonical();
        // A key shorter than a block is filled up with zeros (RFC 2104 2).
        let mut block = [0; 64];
        block[..self.0.len()].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(Domain::OperatorHmac.prefix());
        mac.update(&canonical);
        Ok(mac)
    }
}

impl std::fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OperatorKey")
    }
}
