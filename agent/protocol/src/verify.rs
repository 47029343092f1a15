//! The checks of an envelope, in their order. The first one that fails is the one that is reported;
//! a nonce is spent only after all of them.

use std::borrow::Cow;
use std::fmt;

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::canonical::{CanonicalError, Json, MAX_BYTES};
use super::code::ErrorCode;
use super::envelope::{CommandEnvelope, MAX_ENVELOPE_BYTES, Unverified};
use super::keyring::KeyRing;
use super::shape::{is_uuid, signature_of_base64, start_of};
use super::signing::{ALGORITHM, verify_digest};
use super::timestamp::Timestamp;

/// How far the clocks of relay and endpoint may be apart, in milliseconds.
pub const MAX_SKEW_MS: i64 = 60_000;

/// Longest life of an envelope, in milliseconds.
pub const MAX_LIFE_MS: i64 = 300_000;

/// A check, in the order they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The text's length.
    Size,
    /// Whether it is JSON with one reading.
    Json,
    /// The envelope's fields.
    Schema,
    /// Field `signature_algo`.
    Algorithm,
    /// The key that `signing_key_id` names.
    Key,
    /// The signature.
    Signature,
    /// The endpoint it is for.
    Endpoint,
    /// The tenant it is for.
    Tenant,
    /// The session it is for.
    Session,
    /// The envelope's times.
    Times,
    /// Whether it was used before. Not made here.
    Nonce,
}

/// Whom an envelope must be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audience<'a> {
    /// This endpoint.
    pub endpoint_id: &'a str,
    /// The endpoint's tenant.
    pub tenant_id: &'a str,
    /// The session of the connection it came on.
    pub session_id: &'a str,
}

/// Why an envelope is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize)]
#[error("{message}")]
pub struct Refusal {
    /// The protocol's code.
    pub code: ErrorCode,
    /// The check that failed.
    pub check: Check,
    /// What is wrong.
    pub message: String,
    /// The command, when the text is a JSON object that names one by a UUID.
    pub command_id: Option<String>,
}

/// Which keys count.
#[derive(Debug, Clone, Copy)]
pub enum Keys<'a> {
    /// Those of a ring that are good at a moment.
    Ring(&'a KeyRing, Timestamp),
    /// This one, whatever the envelope calls it.
    One(&'a VerifyingKey),
}

/// The checks to make. `None` leaves one out; shape, algorithm, key, signature and the length of the
/// envelope's life are always checked.
#[derive(Debug, Clone, Copy)]
pub struct Checks<'a> {
    /// Keys.
    pub keys: Keys<'a>,
    /// This endpoint.
    pub endpoint_id: Option<&'a str>,
    /// The endpoint's tenant.
    pub tenant_id: Option<&'a str>,
    /// The session.
    pub session_id: Option<&'a str>,
    /// The clock.
    pub now: Option<Timestamp>,
}

/// All checks but the nonce's, in order.
pub fn verify(
    text: &str,
    keys: &KeyRing,
    audience: &Audience<'_>,
    now: Timestamp,
) -> Result<CommandEnvelope, Refusal> {
    let checks = Checks {
        keys: Keys::Ring(keys, now),
        endpoint_id: Some(audience.endpoint_id),
        tenant_id: Some(audience.tenant_id),
        session_id: Some(audience.session_id),
        now: Some(now),
    };
    checks.run(text)
}

impl Checks<'_> {
    /// Makes the checks.
    pub fn run(&self, text: &str) -> Result<CommandEnvelope, Refusal> {
        let unverified = read(text).map_err(|(check, message)| Refusal {
            code: ErrorCode::SchemaInvalid,
            check,
            message,
            command_id: command_id_of(text),
        })?;
        let checked = self.signature(&unverified).and_then(|()| self.claims(&unverified.envelope));
        match checked {
            Ok(()) => Ok(unverified.envelope),
            Err(Failure { code, check, message }) => {
                let command_id = Some(unverified.envelope.command_id);
                Err(Refusal { code, check, message, command_id })
            }
        }
    }

    fn signature(&self, unverified: &Unverified) -> Result<(), Failure> {
        let invalid =
            |check, message| Failure { code: ErrorCode::SignatureInvalid, check, message };
        if unverified.algorithm != ALGORITHM {
            let message = format!(
                "signature_algo is {:?}; this endpoint takes {ALGORITHM:?} only",
                start_of(&unverified.algorithm)
            );
            return Err(invalid(Check::Algorithm, message));
        }
        let signed_by = |key: &VerifyingKey| {
            signature_of_base64(&unverified.signature)
                .is_some_and(|signature| verify_digest(key, &unverified.digest, &signature))
        };
        let id = &unverified.envelope.signing_key_id;
        let right = match self.keys {
            Keys::One(key) => signed_by(key),
            Keys::Ring(ring, now) => {
                let (first, mut others) = ring.find_all(id, now).map_err(|problem| {
                    let message = format!("signing key {:?}: {problem}", start_of(id));
                    invalid(Check::Key, message)
                })?;
                signed_by(first) || others.any(signed_by)
            }
        };
        if !right {
            let message = format!("the signature is not one of key {:?}", start_of(id));
            return Err(invalid(Check::Signature, message));
        }
        Ok(())
    }

    fn claims(&self, envelope: &CommandEnvelope) -> Result<(), Failure> {
        let same = |check, code, what, theirs: &str, ours: Option<&str>| match ours {
            Some(ours) if ours != theirs => {
                let message =
                    format!("the envelope is for {what} {:?}, not {ours:?}", start_of(theirs));
                Err(Failure { code, check, message })
            }
            _ => Ok(()),
        };
        let (endpoint, tenant) = (&envelope.target_endpoint_id, &envelope.tenant_id);
        let audience = ErrorCode::WrongAudience;
        same(Check::Endpoint, audience, "endpoint", endpoint, self.endpoint_id)?;
        same(Check::Tenant, audience, "tenant", tenant, self.tenant_id)?;
        let (session, stale) = (&envelope.session_id, ErrorCode::SessionStale);
        same(Check::Session, stale, "session", session, self.session_id)?;
        times(envelope, self.now).map_err(|(code, message)| Failure {
            code,
            check: Check::Times,
            message,
        })
    }
}

struct Failure {
    code: ErrorCode,
    check: Check,
    message: String,
}

fn read(text: &str) -> Result<Unverified, (Check, String)> {
    if text.len() > MAX_ENVELOPE_BYTES {
        let length = text.len();
        let message =
            format!("the envelope has {length} bytes; this endpoint takes {MAX_ENVELOPE_BYTES}");
        return Err((Check::Size, message));
    }
    let json = Json::parse_exact(text)
        .map_err(|error: CanonicalError| (Check::Json, error.to_string()))?;
    Unverified::read(json).map_err(|problem| (Check::Schema, problem.0))
}

fn times(envelope: &CommandEnvelope, now: Option<Timestamp>) -> Result<(), (ErrorCode, String)> {
    let (issued, expires) = (envelope.issued_at, envelope.expires_at);
    if expires < issued {
        let message = format!("the envelope expires at {expires}, before it is issued at {issued}");
        return Err((ErrorCode::EnvelopeExpired, message));
    }
    if expires > issued.plus_millis(MAX_LIFE_MS) {
        let message = format!(
            "the envelope is issued at {issued} and lives until {expires}; {} minutes are allowed",
            MAX_LIFE_MS / 60_000
        );
        return Err((ErrorCode::EnvelopeExpired, message));
    }
    let Some(now) = now else { return Ok(()) };
    if now > expires.plus_millis(MAX_SKEW_MS) {
        let message =
            format!("the envelope expired at {expires}; this endpoint's clock says {now}");
        return Err((ErrorCode::EnvelopeExpired, message));
    }
    if now < issued.plus_millis(-MAX_SKEW_MS) {
        let message =
            format!("the envelope is issued at {issued}; this endpoint's clock says {now}");
        return Err((ErrorCode::EnvelopeFutureDated, message));
    }
    Ok(())
}

/// The command a refused text is about, so that the relay need not wait for its ack. The text may
/// be one that [`Json::parse`] refuses.
fn command_id_of(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Command<'a> {
        #[serde(borrow)]
        command_id: Cow<'a, str>,
    }
    let is_object = text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{');
    if !is_object || text.len() > MAX_BYTES {
        return None;
    }
    let command: Command<'_> = serde_json::from_str(text).ok()?;
    is_uuid(&command.command_id).then(|| command.command_id.into_owned())
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Size => "size",
            Self::Json => "json",
            Self::Schema => "schema",
            Self::Algorithm => "algorithm",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Endpoint => "endpoint",
            Self::Tenant => "tenant",
            Self::Session => "session",
            Self::Times => "times",
            Self::Nonce => "nonce",
        })
    }
}

#[cfg(test)]
mod tests;
