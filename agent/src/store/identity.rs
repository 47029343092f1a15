//! Who this endpoint is: what the relay called it, and its Ed25519 key.
//!
//! The file is JSON, mode 0600:
//!
//! ```json
//! {
//!   "version": 1,
//!   "endpoint_id": "...", "tenant_id": "...", "registered_at": "...", "relay": "...",
//!   "public_key": "<64 hex digits>",
//!   "seed": "<64 hex digits>"
//! }
//! ```
//!
//! Before a key is shown to a relay it is written to a file of its own, `identity.pending`, with
//! `version`, `public_key` and `seed` only. A crash between the relay's answer and the identity's
//! own file then loses no key: the next attempt to enroll uses the same one.

mod form;

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use thiserror::Error;
use zeroize::Zeroizing;

use super::StoreError;
use super::file::{private_metadata, refuse_others, remove, replace, sync_directory_of};
use form::{IdentityForm, PendingForm};

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 16 << 10;

/// Why an identity could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// There is none.
    #[error(
        "{} is not there: enroll this endpoint first, with `brainstorm-agent enroll`",
        .0.display()
    )]
    Missing(PathBuf),
    /// There is one already.
    #[error("{} is there already: this endpoint is enrolled", .0.display())]
    Exists(PathBuf),
    /// It is the identity of another endpoint.
    #[error(
        "{} is the identity of endpoint {found}, not of {expected}; use the state directory of \
         {expected}",
        path.display()
    )]
    OtherEndpoint {
        /// The file.
        path: PathBuf,
        /// The endpoint that was wanted.
        expected: String,
        /// The endpoint the file is of.
        found: String,
    },
    /// The file does not hold an identity. The message never repeats what is in it.
    #[error("{} is no identity this agent can use: {detail}; restore it from a backup, or move it \
             away and enroll again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The file cannot be used, read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a relay answers to an enrollment, and which relay it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Names this endpoint.
    pub endpoint_id: String,
    /// Whose endpoint it is.
    pub tenant_id: String,
    /// When it was enrolled, as the relay wrote it.
    pub registered_at: String,
    /// Where it was enrolled.
    pub relay: String,
}

/// A key that no relay has confirmed yet, and that is on disk.
pub struct PendingIdentity {
    /// Where the identity will be.
    identity: PathBuf,
    replaces: bool,
    key: SigningKey,
}

impl PendingIdentity {
    /// A new key, or the one of an attempt to enroll that was cut short. It is on disk when this
    /// returns. `identity` is where the identity will be; when there is one already, that is an
    /// error unless it `replaces` it.
    pub fn prepare(identity: &Path, replaces: bool) -> Result<Self, IdentityError> {
        let current = match Identity::load(identity, None) {
            Ok(current) => Some(current),
            Err(IdentityError::Missing(_)) => None,
            // Whatever it is: it is replaced only when that is what was asked for.
            Err(_) if replaces => None,
            Err(error) => return Err(error),
        };
        if current.is_some() && !replaces {
            return Err(IdentityError::Exists(identity.to_path_buf()));
        }
        let path = pending(identity);
        let earlier = read(&path)?
            .map(|text| PendingForm::parse(&text).map_err(|detail| malformed(&path, detail)))
            .transpose()?
            // One that was enrolled just before a crash is no longer pending.
            .filter(|key| current.is_none_or(|current| current.key != *key));
        let key = match earlier {
            Some(key) => key,
            None => generate(&path)?,
        };
        Ok(Self { identity: identity.to_path_buf(), replaces, key })
    }

    /// What the relay is to know the endpoint by.
    pub fn public_key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// Makes it the endpoint's identity, which is on disk when this returns: there is the old file
    /// or the new one, whole, at any time.
    pub fn enrolled(self, registration: Registration) -> Result<Identity, IdentityError> {
        let path = &self.identity;
        if !self.replaces && private_metadata(path)?.is_some() {
            return Err(IdentityError::Exists(path.clone()));
        }
        let Registration { endpoint_id, tenant_id, registered_at, relay } = registration;
        let key = self.key;
        let identity = Identity { endpoint_id, tenant_id, registered_at, relay, key };
        let text = IdentityForm::text(&identity).map_err(|detail| malformed(path, detail))?;
        // What cannot be read back must not replace what can.
        IdentityForm::parse(&text).map_err(|detail| malformed(path, detail))?;
        replace(path, &text).map_err(|error| StoreError::of_io(path, &error))?;
        let pending = pending(path);
        remove(&pending)
            .and_then(|()| sync_directory_of(&pending))
            .map_err(|error| StoreError::of_io(&pending, &error))?;
        Ok(identity)
    }
}

impl fmt::Debug for PendingIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingIdentity").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// An enrolled endpoint. The key is wiped from memory when this is dropped, and shown by neither
/// `Debug` nor `Serialize`.
pub struct Identity {
    /// Names this endpoint.
    pub endpoint_id: String,
    /// Whose endpoint it is.
    pub tenant_id: String,
    /// When it was enrolled, as the relay wrote it.
    pub registered_at: String,
    /// Where it was enrolled.
    pub relay: String,
    key: SigningKey,
}

impl Identity {
    /// Reads an identity. Refuses that of another endpoint than the expected one, a file that
    /// others may read, and one whose public key is not that of its seed.
    pub fn load(path: &Path, expected_endpoint: Option<&str>) -> Result<Self, IdentityError> {
        let Some(text) = read(path)? else {
            return Err(IdentityError::Missing(path.to_path_buf()));
        };
        let identity = IdentityForm::parse(&text).map_err(|detail| malformed(path, detail))?;
        match expected_endpoint {
            Some(expected) if expected != identity.endpoint_id => {
                Err(IdentityError::OtherEndpoint {
                    path: path.to_path_buf(),
                    expected: expected.to_owned(),
                    found: identity.endpoint_id.clone(),
                })
            }
            _ => Ok(identity),
        }
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

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("endpoint_id", &self.endpoint_id)
            .field("tenant_id", &self.tenant_id)
            .finish_non_exhaustive()
    }
}

/// The text of a private file; nothing when there is no file.
fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
    if private_metadata(path)?.is_none() {
        return Ok(None);
    }
    let failed = |error| StoreError::of_io(path, &error);
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nofollow).open(path).map_err(failed)?;
    // Once more, of the very file that is read.
    refuse_others(path, &file.metadata().map_err(failed)?, 0o600)?;
    // Room for all of it at once, so that no part of the seed stays in memory that was outgrown.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_FILE as usize + 1));
    file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(malformed(path, format!("it is longer than {MAX_FILE} bytes")));
    }
    Ok(Some(text))
}

fn malformed(path: &Path, detail: String) -> IdentityError {
    IdentityError::Malformed { path: path.to_path_buf(), detail }
}

fn pending(identity: &Path) -> PathBuf {
    identity.with_extension("pending")
}

fn generate(path: &Path) -> Result<SigningKey, IdentityError> {
    let failed = |error: io::Error| StoreError::of_io(path, &error);
    let mut seed = Zeroizing::new([0; 32]);
    // Up to 256 bytes come whole (getrandom(2)).
    let given = rustix::rand::getrandom(&mut seed[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|error| failed(error.into()))?;
    if given != seed.len() {
        return Err(failed(io::ErrorKind::UnexpectedEof.into()).into());
    }
    let key = SigningKey::from_bytes(&seed);
    let text = PendingForm::text(&key).map_err(|detail| malformed(path, detail))?;
    replace(path, &text).map_err(failed)?;
    Ok(key)
}

#[cfg(test)]
mod tests;
