//! The canonical form of a frame that carries its own signature.

use std::ops::Range;

use sha2::{Digest, Sha256};

use super::{Json, write};
use crate::domain::Domain;

/// Canonical bytes of an object, and where in them its signature is: what was signed has an empty
/// text there.
pub struct Canonical {
    /// The bytes, signature included.
    pub bytes: Vec<u8>,
    signature: Range<usize>,
}

impl Canonical {
    /// Writes the object. One without the field is taken as it is.
    pub fn of_object(entries: &[(String, Json)], field: &str) -> Self {
        let mut bytes = Vec::with_capacity(1024);
        let mut signature = 0..0;
        write::object(entries, &mut bytes, |key, at| {
            if key == field {
                signature = at;
            }
        });
        Self { bytes, signature }
    }

    /// [`digest`](crate::signing::digest) of what was signed.
    pub fn digest_without_signature(&self, domain: Domain) -> [u8; 32] {
        let before = self.bytes.get(..self.signature.start).unwrap_or_default();
        let after = self.bytes.get(self.signature.end..).unwrap_or_default();
        let empty: &[u8] = if self.signature.is_empty() { b"" } else { b"\"\"" };
        Sha256::new()
            .chain_update(domain.prefix())
            .chain_update(before)
            .chain_update(empty)
            .chain_update(after)
            .finalize()
            .into()
    }
}
