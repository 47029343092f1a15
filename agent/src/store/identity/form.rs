//! How identities are written. Errors say where something is wrong and never what is there,
//! because it may be the key.

use std::borrow::Cow;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Identity, MAX_FILE};
use protocol::shape::hex_of_bytes;

/// The version this agent writes and reads.
const VERSION: u64 = 1;

/// Longest name of an endpoint or a tenant, and longest address of a relay.
const MAX_NAME: usize = 2048;

/// Hex digits of 32 bytes.
const SEED_TEXT: usize = 64;

/// Any version of any of the forms. What else is in it is read past.
#[derive(Deserialize)]
struct AnyVersion {
    version: u64,
}

/// The file of a key that is not enrolled.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PendingForm<'a> {
    version: u64,
    #[serde(borrow)]
    public_key: Cow<'a, str>,
    // Borrowed, so that reading it makes no copy; the writer never escapes anything in it.
    seed: &'a str,
}

impl PendingForm<'_> {
    pub fn parse(text: &[u8]) -> Result<SigningKey, String> {
        let form: PendingForm<'_> = read(text)?;
        key(&form.public_key, form.seed)
    }

    pub fn text(key: &SigningKey) -> Result<Zeroizing<Vec<u8>>, String> {
        let mut seed = Zeroizing::new([0; SEED_TEXT]);
        let (public_key, seed) = (public_key(key).into(), seed_text(key, &mut seed)?);
        write(&PendingForm { version: VERSION, public_key, seed })
    }
}

/// The file of an identity.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IdentityForm<'a> {
    version: u64,
    #[serde(borrow)]
    endpoint_id: Cow<'a, str>,
    #[serde(borrow)]
    tenant_id: Cow<'a, str>,
    #[serde(borrow)]
    registered_at: Cow<'a, str>,
    #[serde(borrow)]
    relay: Cow<'a, str>,
    #[serde(borrow)]
    public_key: Cow<'a, str>,
    seed: &'a str,
}

impl IdentityForm<'_> {
    pub fn parse(text: &[u8]) -> Result<Identity, String> {
        let form: IdentityForm<'_> = read(text)?;
        for (name, value) in [
            ("endpoint_id", &form.endpoint_id),
            ("tenant_id", &form.tenant_id),
            ("registered_at", &form.registered_at),
            ("relay", &form.relay),
        ] {
            if value.is_empty() || value.len() > MAX_NAME {
                return Err(format!("{name} is empty or longer than {MAX_NAME} bytes"));
            }
        }
        Ok(Identity {
            key: key(&form.public_key, form.seed)?,
            endpoint_id: form.endpoint_id.into_owned(),
            tenant_id: form.tenant_id.into_owned(),
            registered_at: form.registered_at.into_owned(),
            relay: form.relay.into_owned(),
        })
    }

    pub fn text(identity: &Identity) -> Result<Zeroizing<Vec<u8>>, String> {
        let mut seed = Zeroizing::new([0; SEED_TEXT]);
        write(&IdentityForm {
            version: VERSION,
            endpoint_id: (&identity.endpoint_id).into(),
            tenant_id: (&identity.tenant_id).into(),
            registered_at: (&identity.registered_at).into(),
            relay: (&identity.relay).into(),
            public_key: public_key(&identity.key).into(),
            seed: seed_text(&identity.key, &mut seed)?,
        })
    }
}

fn read<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, String> {
    let wrong = |error: serde_json::Error| {
        let what = match error.classify() {
            serde_json::error::Category::Eof => "it is cut off",
            serde_json::error::Category::Data => "a field is missing, unknown or of a wrong type",
            _ => "it is not JSON",
        };
        format!("{what} (line {}, column {})", error.line(), error.column())
    };
    let AnyVersion { version } = serde_json::from_slice(text).map_err(wrong)?;
    if version != VERSION {
        return Err(format!("it has version {version}, and this agent reads version {VERSION}"));
    }
    serde_json::from_slice(text).map_err(wrong)
}

fn write(form: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, String> {
    // Room for all of it at once, so that no part of the seed stays in memory that was outgrown.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_FILE as usize));
    serde_json::to_writer_pretty(&mut *text, form)
        .map_err(|_| "it cannot be written as JSON".to_owned())?;
    text.push(b'\n');
    if text.len() as u64 > MAX_FILE {
        return Err(format!("it would be longer than {MAX_FILE} bytes"));
    }
    Ok(text)
}

fn key(public_key_text: &str, seed_text: &str) -> Result<SigningKey, String> {
    let wrong = "its seed is not 64 hex digits";
    let (pairs, rest) = seed_text.as_bytes().as_chunks::<2>();
    let mut seed = Zeroizing::new([0; 32]);
    if pairs.len() != seed.len() || !rest.is_empty() {
        return Err(wrong.to_owned());
    }
    for (byte, pair) in seed.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        let value = high.zip(low).map(|(high, low)| high << 4 | low);
        *byte = value.and_then(|value| u8::try_from(value).ok()).ok_or(wrong)?;
    }
    let key = SigningKey::from_bytes(&seed);
    if public_key(&key) != public_key_text {
        return Err("its public key is not that of its seed".to_owned());
    }
    Ok(key)
}

fn public_key(key: &SigningKey) -> String {
    hex_of_bytes(key.verifying_key().as_bytes())
}

/// Writes into the caller's buffer, so that the one copy can be wiped.
fn seed_text<'a>(key: &SigningKey, text: &'a mut [u8; SEED_TEXT]) -> Result<&'a str, String> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(key.as_bytes()) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]];
    }
    str::from_utf8(text).map_err(|_| "its seed cannot be written".to_owned())
}
