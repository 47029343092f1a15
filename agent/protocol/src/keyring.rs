//! The keys whose envelopes this endpoint takes.
//!
//! ```toml
//! revoked = ["tenant/key-v0"]      # above the first key
//!
//! [[key]]
//! id = "tenant/key-v1"
//! public_key = "03a1..."           # 64 hex digits
//! not_before = "2026-01-01T00:00:00Z"   # optional
//! not_after = "2026-07-01T00:00:00Z"    # optional
//! ```
//!
//! On rotation the old and the new key stand side by side for a while. A relay that keeps the id
//! when it takes a new key gets two entries of that id; either one's signature counts.

use std::collections::BTreeSet;
use std::fmt::Write;

use ed25519_dalek::VerifyingKey;
use serde::Deserialize;
use thiserror::Error;

use super::shape::{bytes_of_hex, hex_of_bytes};
use super::timestamp::Timestamp;

/// A key, and when it is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKeyEntry {
    /// What an envelope's `signing_key_id` calls it.
    pub id: String,
    /// The key.
    pub key: VerifyingKey,
    /// First moment it is good, if there is one.
    pub not_before: Option<Timestamp>,
    /// Last moment it is good, if there is one.
    pub not_after: Option<Timestamp>,
}

/// All keys, and the ids that are never good again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRing {
    keys: Vec<SigningKeyEntry>,
    revoked: BTreeSet<String>,
}

/// Why a key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyProblem {
    /// No key of that id.
    #[error("this endpoint does not know it; add it to the key ring if it is the relay's")]
    Unknown,
    /// The key's id is in the revocation list.
    #[error("it is revoked")]
    Revoked,
    /// The key's `not_before` lies ahead.
    #[error("it is not valid yet")]
    NotYetValid,
    /// The key's `not_after` has passed.
    #[error("it is not valid any more")]
    NoLongerValid,
}

/// Why a key ring cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyRingError {
    /// The file has another form.
    #[error("the key ring cannot be read: {0}")]
    Form(String),
    /// An id of no characters.
    #[error("a key of the key ring has an empty id; give it the relay's signing_key_id")]
    EmptyId,
    /// Not the hex digits of a public key.
    #[error("public_key of {id:?} is not an Ed25519 public key; it takes 64 hex digits")]
    PublicKey {
        /// The key's id.
        id: String,
    },
    /// Not a point in time.
    #[error("{field} of {id:?} is not a time like 2026-01-02T03:04:05Z")]
    Time {
        /// The key's id.
        id: String,
        /// `not_before` or `not_after`.
        field: &'static str,
    },
    /// A key that is never good.
    #[error("not_before of {id:?} is after its not_after")]
    NeverValid {
        /// The key's id.
        id: String,
    },
    /// One id names two keys, or one key twice.
    #[error("{id:?} stands twice in the key ring with the same public key; remove one entry")]
    Twice {
        /// The key's id.
        id: String,
    },
    /// `revoked` reads as a field of the key above it.
    #[error("`revoked` belongs above the first [[key]] of the key ring; move it there")]
    RevokedBelowKey,
}

impl KeyRing {
    /// A ring of these keys and revoked ids. A revoked id may also have a key: it is not used.
    pub fn new(
        keys: Vec<SigningKeyEntry>,
        revoked: impl IntoIterator<Item = String>,
    ) -> Result<Self, KeyRingError> {
        for (index, entry) in keys.iter().enumerate() {
            let id = || entry.id.clone();
            if entry.id.is_empty() {
                return Err(KeyRingError::EmptyId);
            }
            if entry.key.is_weak() {
                return Err(KeyRingError::PublicKey { id: id() });
            }
            if entry.not_before.zip(entry.not_after).is_some_and(|(first, last)| first > last) {
                return Err(KeyRingError::NeverValid { id: id() });
            }
            if keys.iter().take(index).any(|other| other.id == entry.id && other.key == entry.key) {
                return Err(KeyRingError::Twice { id: id() });
            }
        }
        Ok(Self { keys, revoked: revoked.into_iter().collect() })
    }

    /// Reads the form shown above.
    pub fn from_toml(text: &str) -> Result<Self, KeyRingError> {
        let file: File =
            toml::from_str(text).map_err(|error| KeyRingError::Form(error.to_string()))?;
        let keys = file.key.into_iter().map(Entry::check).collect::<Result<_, _>>()?;
        Self::new(keys, file.revoked)
    }

    /// Writes the form shown above.
    pub fn to_toml(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let revoked: Vec<_> = self.revoked.iter().map(|id| quoted(id)).collect();
        let mut text = format!("revoked = [{}]\n", revoked.join(", "));
        for entry in &self.keys {
            let public_key = hex_of_bytes(entry.key.as_bytes());
            let id = quoted(&entry.id);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "\n[[key]]\nid = {id}\npublic_key = \"{public_key}\"");
            for (field, at) in [("not_before", entry.not_before), ("not_after", entry.not_after)] {
                if let Some(at) = at {
                    let _ = writeln!(text, "{field} = \"{at}\"");
                }
            }
        }
        text
    }

    /// The first key of that id that is good now.
    pub fn find(&self, id: &str, now: Timestamp) -> Result<&VerifyingKey, KeyProblem> {
        self.find_all(id, now).map(|(first, _)| first)
    }

    /// Every key of that id that is good now: one, and more only while a relay changes its key
    /// under one id.
    pub fn find_all<'r>(
        &'r self,
        id: &str,
        now: Timestamp,
    ) -> Result<(&'r VerifyingKey, impl Iterator<Item = &'r VerifyingKey>), KeyProblem> {
        if self.revoked.contains(id) {
            return Err(KeyProblem::Revoked);
        }
        let of_id = || self.keys.iter().filter(move |entry| entry.id == id);
        let mut good =
            of_id().filter(move |entry| entry.problem(now).is_none()).map(|entry| &entry.key);
        match good.next() {
            Some(first) => Ok((first, good)),
            None => {
                Err(of_id().find_map(|entry| entry.problem(now)).unwrap_or(KeyProblem::Unknown))
            }
        }
    }

    /// All keys, in the order of the file.
    pub fn keys(&self) -> &[SigningKeyEntry] {
        &self.keys
    }

    /// All revoked ids.
    pub fn revoked(&self) -> impl Iterator<Item = &str> {
        self.revoked.iter().map(String::as_str)
    }
}

impl SigningKeyEntry {
    fn problem(&self, now: Timestamp) -> Option<KeyProblem> {
        if self.not_before.is_some_and(|first| now < first) {
            Some(KeyProblem::NotYetValid)
        } else if self.not_after.is_some_and(|last| now > last) {
            Some(KeyProblem::NoLongerValid)
        } else {
            None
        }
    }
}

/// A public key from its 64 hex digits, of either case.
pub fn public_key_of_hex(text: &str) -> Option<VerifyingKey> {
    let key = VerifyingKey::from_bytes(&bytes_of_hex(text)?).ok()?;
    (!key.is_weak()).then_some(key)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    revoked: Vec<String>,
    #[serde(default)]
    key: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    public_key: String,
    not_before: Option<toml::Value>,
    not_after: Option<toml::Value>,
    // Never right here; read so that the error can say where it belongs.
    revoked: Option<toml::Value>,
}

impl Entry {
    fn check(self) -> Result<SigningKeyEntry, KeyRingError> {
        let Self { id, public_key, not_before, not_after, revoked } = self;
        if revoked.is_some() {
            return Err(KeyRingError::RevokedBelowKey);
        }
        let Some(key) = public_key_of_hex(&public_key) else {
            return Err(KeyRingError::PublicKey { id });
        };
        let time = |value: Option<toml::Value>, field| match value {
            None => Ok(None),
            Some(value) => {
                moment(&value).map(Some).ok_or_else(|| KeyRingError::Time { id: id.clone(), field })
            }
        };
        let not_before = time(not_before, "not_before")?;
        let not_after = time(not_after, "not_after")?;
        Ok(SigningKeyEntry { id, key, not_before, not_after })
    }
}

/// TOML has times of its own; both spellings are taken.
fn moment(value: &toml::Value) -> Option<Timestamp> {
    match value {
        toml::Value::String(text) => Timestamp::parse(text),
        toml::Value::Datetime(at) => Timestamp::parse(&at.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
