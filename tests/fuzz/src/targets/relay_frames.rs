//! Frames from a relay.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use protocol::message::{CommandResult, Frame, Inbound, classify};
use protocol::signing::{ALGORITHM, Domain, sign};
use protocol::verify::{Checks, Keys};
use protocol::{Check, Json, Timestamp, canonical_bytes};
use serde_json::Value;

/// 2026-01-02T03:04:05.678Z
const NOW: Timestamp = Timestamp::from_millis(1_767_323_045_678);

pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let found = classify(text);
    envelope(text, &found);
    result(text);
}

/// As it is, and rightly signed: then it may be refused for anything but its signature.
fn envelope(text: &str, found: &Inbound) {
    static KEY: OnceLock<SigningKey> = OnceLock::new();
    let key = KEY.get_or_init(|| SigningKey::from_bytes(&[7; 32]));
    let public = key.verifying_key();
    let checks = Checks {
        keys: Keys::One(&public),
        endpoint_id: None,
        tenant_id: None,
        session_id: None,
        now: Some(NOW),
    };
    let _ = checks.run(text);
    let Ok(mut value) = Json::parse(text).map(Json::into_value) else { return };
    let Value::Object(fields) = &mut value else { return };
    fields.insert("signature_algo".into(), ALGORITHM.into());
    fields.insert("signature".into(), "".into());
    let Ok(bytes) = canonical_bytes(&value) else { return };
    let signature = sign(key, Domain::CommandEnvelope, &bytes);
    value["signature"] = STANDARD.encode(signature).into();
    let signed = value.to_string();
    match checks.run(&signed) {
        Ok(taken) => {
            assert_eq!(found, &Inbound::Envelope, "taken, and no command by its type");
            let again = std::str::from_utf8(&taken.canonical).unwrap();
            assert_eq!(checks.run(again).unwrap(), taken);
            // Any other content has another signature.
            value["command_id"] = "00000000-0000-4000-8000-000000000000".into();
            if taken.command_id != value["command_id"] {
                assert_eq!(checks.run(&value.to_string()).unwrap_err().check, Check::Signature);
            }
        }
        Err(refusal) => assert!(
            !matches!(refusal.check, Check::Algorithm | Check::Key | Check::Signature),
            "{refusal:?}: {signed}"
        ),
    }
}

/// A result that is read, as from the journal, is written as one that is read again.
fn result(text: &str) {
    let Ok(result) = serde_json::from_str::<CommandResult>(text) else { return };
    let written = result.to_text();
    assert_eq!(serde_json::from_str::<CommandResult>(&written).unwrap(), result);
    // A relay brings it into canonical form, and does not survive one that has none.
    canonical_bytes(&result).unwrap();
}
