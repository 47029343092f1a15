//! One thing wrong with an envelope that is signed all the same.

use serde_json::{Value, json};

use super::sample::{AUDIENCE, NOW, OTHER_UUID, Sample, check, keys, refused};
use super::*;

const SCHEMA: &str = "ENDPOINT_SCHEMA_INVALID";
const SIGNATURE: &str = "ENDPOINT_SIGNATURE_INVALID";
const AUDIENCE_CODE: &str = "ENDPOINT_WRONG_AUDIENCE";
const EXPIRED: &str = "ENDPOINT_ENVELOPE_EXPIRED";
const FUTURE: &str = "ENDPOINT_ENVELOPE_FUTURE_DATED";

fn with(field: &str, value: impl Into<Value>) -> (&'static str, Check) {
    refused(&Sample::new().with(field, value.into()).signed())
}

#[test]
fn another_algorithm() {
    for other in ["", "ed25519", "ED25519-JCS-SHA256-V1", "none", "ed25519-jcs-sha256-v2"] {
        assert_eq!(with("signature_algo", other), (SIGNATURE, Check::Algorithm), "{other}");
    }
}

#[test]
fn a_key_that_is_unknown_revoked_early_or_late() {
    for (id, word) in
        [("other", "does not know"), ("revoked", "revoked"), ("early", "yet"), ("late", "any more")]
    {
        let text = Sample::new().with("signing_key_id", id.into()).signed();
        assert_eq!(refused(&text), (SIGNATURE, Check::Key), "{id}");
        let message = check(&text).unwrap_err().message;
        assert!(message.contains(id) && message.contains(word), "{message}");
    }
}

#[test]
fn a_bad_signature() {
    let signed = Sample::new().signed();
    for changed in [
        Sample::with_key(1).signed(),
        signed.replace("\"hello\"", "\"hellp\""),
        signed.replace("\"echo\"", "\"sh\""),
        signed.replace("corr-0001", "corr-0002"),
    ] {
        assert_ne!(changed, signed);
        assert_eq!(refused(&changed), (SIGNATURE, Check::Signature));
    }
    for signature in ["AAAA", "not base64", "==", "\u{e9}"] {
        assert_eq!(with("signature", signature), (SIGNATURE, Check::Signature), "{signature}");
    }
    assert_eq!(refused(&Sample::new().value.to_string()), (SIGNATURE, Check::Signature));
}

#[test]
fn every_bit_of_a_signature_counts() {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let value: Value = serde_json::from_str(&Sample::new().signed()).unwrap();
    let signature = STANDARD.decode(value["signature"].as_str().unwrap()).unwrap();
    for bit in 0..512 {
        let mut changed = signature.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(with("signature", STANDARD.encode(changed)), (SIGNATURE, Check::Signature));
    }
}

/// A signature with S + L instead of S satisfies the same equation; accepting it would let one
/// command have two signatures.
#[test]
fn a_second_form_of_the_same_signature() {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let value: Value = serde_json::from_str(&Sample::new().signed()).unwrap();
    let mut signature = STANDARD.decode(value["signature"].as_str().unwrap()).unwrap();
    let mut carry = 0;
    for (byte, order) in signature[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert_eq!(carry, 0);
    assert_eq!(with("signature", STANDARD.encode(signature)), (SIGNATURE, Check::Signature));
}

#[test]
fn a_signature_for_another_use() {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let sample = Sample::new();
    let canonical = Json::from_value(&sample.value).unwrap().canonical();
    for domain in [Domain::ConnectionProof, Domain::BootstrapToken, Domain::EvidenceChunk] {
        let signature = STANDARD.encode(sign(&sample.key, domain, &canonical));
        assert_eq!(with("signature", signature), (SIGNATURE, Check::Signature), "{domain:?}");
    }
}

#[test]
fn for_another_endpoint() {
    assert_eq!(with("target_endpoint_id", OTHER_UUID), (AUDIENCE_CODE, Check::Endpoint));
    let upper = AUDIENCE.endpoint_id.to_uppercase();
    assert_eq!(with("target_endpoint_id", upper), (AUDIENCE_CODE, Check::Endpoint));
    assert_eq!(with("tenant_id", OTHER_UUID), (AUDIENCE_CODE, Check::Tenant));
    assert_eq!(with("tenant_id", "tenant-local"), (AUDIENCE_CODE, Check::Tenant));
    assert_eq!(with("session_id", OTHER_UUID), ("ENDPOINT_SESSION_STALE", Check::Session));
}

/// What becomes of an envelope issued and expiring so many milliseconds after now.
fn times(issued: i64, expires: i64) -> Result<(), (&'static str, Check)> {
    let sample = Sample::new()
        .with("issued_at", json!(NOW.plus_millis(issued)))
        .with("expires_at", json!(NOW.plus_millis(expires)));
    check(&sample.signed()).map(|_| ()).map_err(|refusal| (refusal.code.as_str(), refusal.check))
}

#[test]
fn at_the_wrong_time() {
    let (expired, future) = (Err((EXPIRED, Check::Times)), Err((FUTURE, Check::Times)));
    assert_eq!(times(0, 300_000), Ok(()));
    assert_eq!(times(-120_000, 120_000), Ok(()), "issued two minutes ago");
    assert_eq!(times(-360_000, -60_000), Ok(()), "expired within the skew");
    assert_eq!(times(-360_001, -60_001), expired);
    assert_eq!(times(60_000, 360_000), Ok(()), "ahead within the skew");
    assert_eq!(times(60_001, 360_001), future);
    assert_eq!(times(0, 300_001), expired, "lives too long");
    assert_eq!(times(0, 0), Ok(()));
    assert_eq!(times(0, -1), expired, "expires before it is issued");
    assert_eq!(times(1_000_000, 0), expired, "a life that cannot be comes before the clock");
    assert_eq!(times(1_000_000, 1_400_000), expired, "so does one that is too long");
}

#[test]
fn at_the_ends_of_time() {
    let far = |at: &str| {
        Sample::new().with("issued_at", at.into()).with("expires_at", at.into()).signed()
    };
    assert_eq!(refused(&far("9999-12-31T23:59:59.999Z")), (FUTURE, Check::Times));
    assert_eq!(refused(&far("0000-01-01T00:00:00Z")), (EXPIRED, Check::Times));
    for clock in [i64::MIN, i64::MAX] {
        let clock = Timestamp::from_millis(clock);
        let result = verify(&Sample::new().signed(), &keys(), &AUDIENCE, clock);
        assert_eq!(result.unwrap_err().check, Check::Times);
    }
}

#[test]
fn a_refusal_names_the_command_when_it_can() {
    let id = Sample::new().text("command_id").to_owned();
    let named = |text: &str| check(text).unwrap_err().command_id;
    for text in [
        Sample::with_key(1).signed(),
        Sample::new().with("extra", json!(1)).signed(),
        Sample::new().without("nonce").signed(),
        Sample::new().with("session_id", OTHER_UUID.into()).signed(),
        // Refused by the strict parser, readable all the same.
        format!("{{\"command_id\":\"{id}\",\"a\":1,\"a\":2}}"),
        format!("{{\"command_id\":\"{id}\",\"a\":\"\\ud800\"}}"),
        format!("{{\"command_id\":\"{id}\",\"a\":{}{}}}", "[".repeat(5000), "]".repeat(5000)),
        format!("{{\"command_id\":\"{id}\",\"a\":\"{}\"}}", "a".repeat(MAX_ENVELOPE_BYTES)),
    ] {
        assert_eq!(named(&text), Some(id.clone()));
    }
    for text in [
        "{\"command_id\":\"../../etc\"}".to_owned(),
        format!("{{\"command_id\":\"{id}\",\"command_id\":\"{OTHER_UUID}\"}}"),
        format!("{{\"command_id\":[\"{id}\"]}}"),
        format!("[\"{id}\"]"),
        format!("{{\"command_id\":\"{id}\""),
        "null".into(),
    ] {
        assert_eq!(named(&text), None, "{text}");
    }
}

#[test]
fn text_that_is_no_envelope() {
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let params = |json: &str| Sample::new().signed().replace("{\"message\":\"hello\"}", json);
    for text in [
        String::new(),
        " ".into(),
        "{".into(),
        "hello".into(),
        "{}{}".into(),
        "\u{feff}{}".into(),
        "{\"a\":1,}".into(),
        "NaN".into(),
        "\u{0}".into(),
        deep(65),
        deep(100_000),
        params("{\"a\":1,\"a\":1}"),
        params("{\"a\":1,\"\\u0061\":2}"),
        params("{\"caf\u{e9}\":1,\"cafe\u{301}\":2}"),
        params("{\"b\":[{\"\u{212b}\":1,\"\u{c5}\":1}]}"),
        params("{\"a\":\"\\ud800\"}"),
        params("{\"\\udfff\":1}"),
        params("{\"a\":1e400}"),
        params("{\"a\":-1e400}"),
        params(&format!("{{\"a\":{}}}", "9".repeat(400))),
        params(&format!("{{\"a\":{}}}", deep(63))),
    ] {
        assert_eq!(refused(&text), (SCHEMA, Check::Json), "{text:.200}");
    }
    for text in ["null", "[1]", "1", "\"x\"", "true", "[]", "{}"] {
        assert_eq!(refused(text), (SCHEMA, Check::Schema), "{text}");
    }
    let large = Sample::new().with("params", json!({"a": "a".repeat(MAX_ENVELOPE_BYTES)}));
    assert_eq!(refused(&large.signed()), (SCHEMA, Check::Size));
}

#[test]
fn sizes_and_depths_up_to_the_limit_are_taken() {
    let empty = Sample::new().with("params", json!({"a": ""})).signed().len();
    let fill = |length| Sample::new().with("params", json!({"a": "a".repeat(length)})).signed();
    assert!(check(&fill(MAX_ENVELOPE_BYTES - empty)).is_ok());
    assert_eq!(refused(&fill(MAX_ENVELOPE_BYTES - empty + 1)), (SCHEMA, Check::Size));
    // The envelope and its params are two levels of the 64.
    let nested = (0..62).fold(json!(1), |inner, _| json!([inner]));
    assert!(check(&Sample::new().with("params", json!({"a": nested})).signed()).is_ok());
}
