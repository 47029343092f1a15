//! Who this endpoint is, and its private key.
//!
//! A JSON file with mode 0600:
//!
//! ```json
//! {"version": 1, "endpoint_id": "...", "tenant_id": "...", "registered_at": "...",
//!  "relay": "https://...", "public_key": "<64 hex digits>", "seed": "<64 hex digits>"}
//! ```
//!
//! The key is made and on disk, in `identity.pending`, before a relay hears of it: a crash between
//! the relay's answer and the file above loses nothing, because the next attempt uses the same key.

use std::fs;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use super::StoreError;
use super::file::{private_metadata, remove, replace};

/// The only form there is.
const VERSION: u32 = 1;
/// Largest file.
const MAX_BYTES: u64 = 16 << 10;

/// Why an identity cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// There is none.
    #[error("{} is not there: enrol this endpoint first, with `brainstorm-agent enroll`", .0.display())]
    Missing(PathBuf),
    /// It is not one.
    #[error("{} is no identity: {detail}; put back an undamaged one, or enrol again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// It is another endpoint's.
    #[error(
        "{} is the identity of endpoint {found}, not of {expected}: it belongs to another machine",
        path.display()
    )]
    OtherEndpoint {
        /// The file.
        path: PathBuf,
        /// Whose it should be.
        expected: String,
        /// Whose it is.
        found: String,
    },
    /// It is there, and would be lost.
    #[error("{} is there already: this endpoint is enrolled", .0.display())]
    Exists(PathBuf),
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

/// An enrolled endpoint and its key.
pub struct Identity {
    /// The endpoint.
    pub endpoint_id: String,
    /// The tenant it is enrolled with.
    pub tenant_id: String,
    /// When the relay says it was enrolled.
    pub registered_at: String,
    /// Where it was enrolled.
    pub relay: String,
    key: SigningKey,
}

/// A key that no relay has confirmed yet.
pub struct PendingIdentity {
    identity: PathBuf,
    key: SigningKey,
}

/// What a relay says about an endpoint it has enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The endpoint.
    pub endpoint_id: String,
    /// Its tenant.
    pub tenant_id: String,
    /// When.
    pub registered_at: String,
    /// Where.
    pub relay: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    version: u32,
    endpoint_id: String,
    tenant_id: String,
    registered_at: String,
    relay: String,
    public_key: String,
    seed: String,
}

impl Drop for Form {
    fn drop(&mut self) {
        self.seed.zeroize();
    }
}

impl PendingIdentity {
    /// The key of an earlier attempt, or a new one, which is on disk when this returns. `identity`
    /// is where the identity will be; there must not be one yet unless it may be `replaced`.
    pub fn prepare(identity: &Path, replaced: bool) -> Result<Self, IdentityError> {
        if !replaced && private_metadata(identity)?.is_some() {
            return Err(IdentityError::Exists(identity.to_owned()));
        }
        let path = pending(identity);
        let key = match read(&path) {
            Ok(text) => key_from_hex(text.trim(), &path)?,
            Err(IdentityError::Missing(_)) => {
                let key = generate()?;
                let text = Zeroizing::new(hex(key.as_bytes()));
                replace(&path, text.as_bytes()).map_err(|e| StoreError::of_io(&path, &e))?;
                key
            }
            Err(error) => return Err(error),
        };
        Ok(Self { identity: identity.to_owned(), key })
    }

    /// What the relay is to know the endpoint by.
    pub fn public_key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// Makes it the endpoint's identity, on disk when this returns.
    pub fn adopt(self, registration: Registration) -> Result<Identity, IdentityError> {
        let Registration { endpoint_id, tenant_id, registered_at, relay } = registration;
        let form = Form {
            version: VERSION,
            endpoint_id: endpoint_id.clone(),
            tenant_id: tenant_id.clone(),
            registered_at: registered_at.clone(),
            relay: relay.clone(),
            public_key: hex(&self.public_key()),
            seed: hex(self.key.as_bytes()),
        };
        let path = &self.identity;
        let failed = |e: &std::io::Error| StoreError::of_io(path, e);
        let text = serde_json::to_string_pretty(&form).map_err(|e| failed(&e.into()))?;
        let text = Zeroizing::new(text);
        replace(path, text.as_bytes()).map_err(|e| failed(&e))?;
        remove(&pending(path)).map_err(|e| failed(&e))?;
        Ok(Identity { endpoint_id, tenant_id, registered_at, relay, key: self.key })
    }
}

impl Identity {
    /// Reads an identity. One of another endpoint than the `expected` is refused, and so is a file
    /// that others can use.
    pub fn load(path: &Path, expected: Option<&str>) -> Result<Self, IdentityError> {
        let malformed = |detail: String| IdentityError::Malformed { path: path.to_owned(), detail };
        let text = read(path)?;
        let form: Form = serde_json::from_str(&text).map_err(|e| malformed(e.to_string()))?;
        if form.version != VERSION {
            return Err(malformed(format!("version {} is not known", form.version)));
        }
        if form.endpoint_id.is_empty() || form.tenant_id.is_empty() {
            return Err(malformed("endpoint or tenant is empty".to_owned()));
        }
        if let Some(expected) = expected.filter(|expected| *expected != form.endpoint_id) {
            return Err(IdentityError::OtherEndpoint {
                path: path.to_owned(),
                expected: expected.to_owned(),
                found: form.endpoint_id.clone(),
            });
        }
        let key = key_from_hex(&form.seed, path)?;
        if hex(key.verifying_key().as_bytes()) != form.public_key {
            return Err(malformed("its public key is not that of its seed".to_owned()));
        }
        Ok(Self {
            endpoint_id: form.endpoint_id.clone(),
            tenant_id: form.tenant_id.clone(),
            registered_at: form.registered_at.clone(),
            relay: form.relay.clone(),
            key,
        })
    }

    /// The public half of the key.
    pub fn public_key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// The key itself, for the process that does nothing but sign. It is wiped when dropped.
    pub fn into_key(self) -> SigningKey {
        self.key
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("endpoint_id", &self.endpoint_id)
            .field("tenant_id", &self.tenant_id)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for PendingIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingIdentity").field("identity", &self.identity).finish_non_exhaustive()
    }
}

fn pending(identity: &Path) -> PathBuf {
    identity.with_extension("pending")
}

fn read(path: &Path) -> Result<Zeroizing<String>, IdentityError> {
    let Some(found) = private_metadata(path)? else {
        return Err(IdentityError::Missing(path.to_owned()));
    };
    if found.len() > MAX_BYTES {
        let detail = format!("{} bytes are too many", found.len());
        return Err(IdentityError::Malformed { path: path.to_owned(), detail });
    }
    match fs::read_to_string(path) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            let detail = "it is not text".to_owned();
            Err(IdentityError::Malformed { path: path.to_owned(), detail })
        }
        Err(error) => Err(StoreError::of_io(path, &error).into()),
    }
}

fn generate() -> Result<SigningKey, IdentityError> {
    let mut seed = Zeroizing::new([0; 32]);
    let mut filled = 0;
    while let Some(rest) = seed.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| IdentityError::Random(error.to_string()))?;
    }
    Ok(SigningKey::from_bytes(&seed))
}

fn hex(bytes: &[u8; 32]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn key_from_hex(text: &str, path: &Path) -> Result<SigningKey, IdentityError> {
    let mut seed = Zeroizing::new([0; 32]);
    let digits = text.as_bytes();
    let well_formed = digits.len() == 64
        && digits.chunks_exact(2).zip(seed.iter_mut()).all(|(pair, byte)| {
            let value = |digit: u8| char::from(digit).to_digit(16);
            let (Some(high), Some(low)) = (value(pair[0]), value(pair[1])) else { return false };
            *byte = (high << 4 | low) as u8;
            true
        });
    if !well_formed {
        let detail = "its seed is not 64 hex digits".to_owned();
        return Err(IdentityError::Malformed { path: path.to_owned(), detail });
    }
    Ok(SigningKey::from_bytes(&seed))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn registration() -> Registration {
        Registration {
            endpoint_id: "dc4a8b19-91c5-4c30-b66d-549dc96aea71".into(),
            tenant_id: "tenant-local".into(),
            registered_at: "2026-01-02T03:04:05.678Z".into(),
            relay: "https://relay.example".into(),
        }
    }

    #[test]
    fn an_adopted_key_is_read_back_and_signs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.json");
        let pending = PendingIdentity::prepare(&path, false).unwrap();
        let public = pending.public_key();
        let adopted = pending.adopt(registration()).unwrap();
        let loaded = Identity::load(&path, Some(&registration().endpoint_id)).unwrap();
        assert_eq!((adopted.public_key(), loaded.public_key()), (public, public));
        assert_eq!(loaded.into_key().verifying_key().to_bytes(), public);
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["identity.json"], "the pending key is gone");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_attempt_that_was_cut_short_goes_on_with_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.json");
        let first = PendingIdentity::prepare(&path, false).unwrap().public_key();
        let second = PendingIdentity::prepare(&path, false).unwrap();
        assert_eq!(second.public_key(), first);
        second.adopt(registration()).unwrap();
        assert!(matches!(PendingIdentity::prepare(&path, false), Err(IdentityError::Exists(_))));
        let third = PendingIdentity::prepare(&path, true).unwrap();
        assert_ne!(third.public_key(), first, "another enrolment has another key");
        assert!(Identity::load(&path, None).is_ok(), "and leaves the old one until it is adopted");
    }

    #[test]
    fn what_is_not_this_endpoints_whole_identity_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.json");
        assert!(matches!(Identity::load(&path, None), Err(IdentityError::Missing(_))));
        PendingIdentity::prepare(&path, false).unwrap().adopt(registration()).unwrap();
        let other = Identity::load(&path, Some("another")).unwrap_err();
        assert!(matches!(other, IdentityError::OtherEndpoint { .. }), "{other}");

        let good = fs::read_to_string(&path).unwrap();
        let seed = good.split("\"seed\": \"").nth(1).unwrap()[..64].to_owned();
        let bad = [
            good.replace("\"version\": 1", "\"version\": 2"),
            good.replace("\"version\": 1", "\"version\": 1, \"extra\": 0"),
            good.replace(&seed, &"0".repeat(64)),
            good.replace(&seed, &seed[1..]),
            good.replace(&seed, &"é".repeat(32)),
            good.replace("tenant-local", ""),
            good[..good.len() / 2].to_owned(),
            String::new(),
            " ".repeat(20_000),
        ];
        for text in bad {
            replace(&path, text.as_bytes()).unwrap();
            let error = Identity::load(&path, None).unwrap_err();
            assert!(matches!(error, IdentityError::Malformed { .. }), "{error}");
            assert!(!error.to_string().contains(&seed), "the seed is shown: {error}");
        }
        replace(&path, good.as_bytes()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Identity::load(&path, None), Err(IdentityError::Store(_))));
    }

    #[test]
    fn the_seed_is_in_no_debug_output() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.json");
        let pending = PendingIdentity::prepare(&path, false).unwrap();
        let seed = hex(pending.key.as_bytes());
        let bytes = format!("{:?}", pending.key.as_bytes());
        let shown = format!("{pending:?}");
        let identity = pending.adopt(registration()).unwrap();
        for shown in [shown, format!("{identity:?}")] {
            assert!(!shown.contains(&seed) && !shown.contains(&bytes), "{shown}");
        }
    }
}
