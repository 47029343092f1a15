//! The checks of a plain envelope on one core: parsing, canonical form, SHA-256, Ed25519.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use brainstorm_agent::bench::Report;
use dev_relay::{Draft, EnvelopeBuilder};
use ed25519_dalek::SigningKey;
use protocol::{Audience, KeyRing, SigningKeyEntry, Timestamp, verify};
use serde_json::json;

const AUDIENCE: Audience<'_> = Audience {
    endpoint_id: "dc4a8b19-91c5-4c30-b66d-549dc96aea71",
    tenant_id: "6e5b2e09-42f7-474d-a196-14a731771b84",
    session_id: "65b162bd-0578-4700-82a5-a3458aba016d",
};
const KEY_ID: &str = "6e5b2e09-42f7-474d-a196-14a731771b84/key-v1";
/// Different envelopes, so that no branch predictor learns one by heart.
const ENVELOPES: u32 = 512;
const WARM_UP: Duration = Duration::from_millis(500);

fn envelope(number: u32, key: &SigningKey, now: Timestamp) -> Result<String> {
    let mut nonce = [0xa5; 32];
    nonce[..4].copy_from_slice(&number.to_be_bytes());
    let operator = json!({
        "kind": "human", "id": "operator@local", "originating_human_id": "operator@local",
    });
    let draft = Draft {
        endpoint_id: AUDIENCE.endpoint_id,
        tenant_id: AUDIENCE.tenant_id,
        session_id: AUDIENCE.session_id,
        signing_key_id: KEY_ID,
        correlation_id: &format!("corr-{number:04}"),
        operator: &operator,
        tool: "echo",
        params: &json!({"message": "hello"}),
        now,
    };
    let envelope = EnvelopeBuilder::new(&draft, key.clone())
        .field("command_id", format!("3f2b8c1e-7d4a-4e9b-9c55-{number:012x}"))
        .field("nonce", URL_SAFE_NO_PAD.encode(nonce))
        .times(now, now.plus_millis(300_000))
        .sign()?;
    Ok(envelope.text())
}

/// Checks `rounds` envelopes, one after the other.
pub fn measure(rounds: u32) -> Result<Report> {
    let now = Timestamp::now();
    let key = SigningKey::from_bytes(&[7; 32]);
    let entry = SigningKeyEntry {
        id: KEY_ID.into(),
        key: key.verifying_key(),
        not_before: None,
        not_after: None,
    };
    let keys = KeyRing::new(vec![entry], [])?;
    let envelopes = (0..ENVELOPES).map(|number| envelope(number, &key, now));
    let envelopes = envelopes.collect::<Result<Vec<_>>>()?;

    let warm = Instant::now();
    let mut texts = envelopes.iter().cycle();
    let mut one = || -> Result<Duration> {
        let text = texts.next().map_or("", String::as_str);
        let start = Instant::now();
        let checked = black_box(verify(black_box(text), &keys, &AUDIENCE, now));
        let took = start.elapsed();
        checked.map(|_| took).map_err(|refusal| anyhow!("refused: {}", refusal.message))
    };
    while warm.elapsed() < WARM_UP {
        one()?;
    }
    let start = Instant::now();
    let times = (0..rounds).map(|_| one()).collect::<Result<Vec<_>>>()?;
    let total = start.elapsed();

    let mut report = Report::new("signatures");
    let bytes = envelopes.first().map_or(0, String::len);
    report.add(format!("check of an envelope of {bytes} bytes"), &times, None);
    let rate = f64::from(rounds) / total.as_secs_f64();
    report.value("checks on one core", rate, "a second", Some(">= 15000"));
    Ok(report)
}
