mod hostile;
mod order;
mod refusals;
mod sample;
mod schema;

use super::*;
use crate::keyring::SigningKeyEntry;
use crate::signing::{Domain, sign};
use sample::{NOW, Sample, check, keys};

#[test]
fn a_good_envelope_is_taken_whole() {
    let sample = Sample::new();
    let envelope = check(&sample.signed()).unwrap();
    assert_eq!(envelope.command_id, sample.text("command_id"));
    assert_eq!(envelope.tool, "echo");
    assert_eq!(serde_json::Value::Object(envelope.params), sample.value["params"]);
    assert_eq!(envelope.operator.id, "operator@local");
    assert_eq!(envelope.operator.originating_human_id.as_deref(), Some("operator@local"));
    assert_eq!(envelope.issued_at, NOW);
    assert_eq!(envelope.expires_at, NOW.plus_millis(300_000));
    let sent = Json::parse(&sample.signed()).unwrap();
    assert_eq!(envelope.canonical, sent.canonical(), "signature included");
}

#[test]
fn what_may_vary_may_vary() {
    let agent = serde_json::json!({
        "kind": "agent", "id": "bot", "originating_human_id": "operator@local",
    });
    for (field, value) in [
        ("operator", agent),
        ("operator", serde_json::json!({"kind": "human", "id": "x"})),
        ("params", serde_json::json!({})),
        ("tool", "a tool with spaces ~".into()),
        ("tool", "t".repeat(256).into()),
        ("correlation_id", "!~".into()),
        ("correlation_id", "c".repeat(256).into()),
        ("command_id", "3F2B8C1E-7D4A-4E9B-9C55-0123456789AB".into()),
        ("expires_at", NOW.to_string().into()),
        ("issued_at", "2026-01-02T04:04:05.678+01:00".into()),
    ] {
        let sample = Sample::new().with(field, value.clone());
        assert!(check(&sample.signed()).is_ok(), "{field} {value}: {:?}", check(&sample.signed()));
    }
}

#[test]
fn a_signature_may_lack_its_padding() {
    let signed = Sample::new().signed();
    assert_eq!(signed.matches("==\"").count(), 1);
    assert!(check(&signed.replace("==\"", "\"")).is_ok());
}

#[test]
fn the_order_of_fields_and_white_space_mean_nothing() {
    let sample = Sample::new();
    let serde_json::Value::Object(fields) = serde_json::from_str(&sample.signed()).unwrap() else {
        panic!("not an object");
    };
    let fields: Vec<_> =
        fields.iter().rev().map(|(key, value)| format!(" \"{key}\"\t:\r\n {value} ")).collect();
    let text = format!(" \n{{{}}} ", fields.join(","));
    assert_eq!(check(&text), check(&sample.signed()));
}

#[test]
fn text_signed_as_nfc_and_sent_as_nfd_arrives_as_nfc() {
    let nfc = serde_json::json!({"caf\u{e9}": "\u{c5}", "n": [1.0, 1e-7, 0.5, -0.0]});
    let signed = Sample::new().with("params", nfc).signed();
    let nfd = signed.replace('\u{e9}', "e\u{301}").replace('\u{c5}', "\u{212b}");
    assert_ne!(nfd, signed);
    let envelope = check(&nfd).unwrap();
    let delivered = serde_json::to_string(&envelope.params).unwrap();
    assert_eq!(delivered, "{\"caf\u{e9}\":\"\u{c5}\",\"n\":[1,1e-7,0.5,0]}");
    assert_eq!(envelope, check(&signed).unwrap());
}

#[test]
fn a_number_that_a_double_does_not_hold_exactly_is_refused() {
    let sample = Sample::new().with("params", serde_json::json!({"n": 9_007_199_254_740_992_i64}));
    let signed = sample.signed();
    assert_eq!(check(&signed).unwrap().params["n"], 9_007_199_254_740_992_i64);
    // All of these have a signature that holds, because they round to the double that was signed or are it.
    for (double, text) in [
        (9_007_199_254_740_992.0, "9007199254740993"),
        (-9_007_199_254_740_992.0, "-9007199254740993"),
        (1e20, "100000000000000000000"),
        (1e21, "1e21"),
        (-1e300, "-1e300"),
    ] {
        let sample = Sample::new().with("params", serde_json::json!({"n": [double]}));
        let canonical = protocol_number(double);
        let other = sample.signed().replace(&format!("[{canonical}]"), &format!("[{text}]"));
        let refusal = check(&other).unwrap_err();
        assert_eq!(
            (refusal.check, refusal.code),
            (Check::Json, ErrorCode::SchemaInvalid),
            "{text}"
        );
        assert!(refusal.message.contains("2^53"), "{}", refusal.message);
    }
}

/// A number as `serde_json` writes it.
fn protocol_number(number: f64) -> String {
    serde_json::to_string(&number).unwrap()
}

#[test]
fn one_key_counts_under_any_name_when_checks_say_so() {
    let sample = Sample::new().with("signing_key_id", "whatever".into());
    let key = sample.key.verifying_key();
    let checks = Checks {
        keys: Keys::One(&key),
        endpoint_id: None,
        tenant_id: None,
        session_id: None,
        now: None,
    };
    assert!(checks.run(&sample.signed()).is_ok());
    let other = Sample::with_key(9).key.verifying_key();
    let refusal = Checks { keys: Keys::One(&other), ..checks }.run(&sample.signed()).unwrap_err();
    assert_eq!(refusal.check, Check::Signature);
    let long = Sample::new().with("expires_at", NOW.plus_millis(300_001).to_string().into());
    assert_eq!(checks.run(&long.signed()).unwrap_err().check, Check::Times);
}

#[test]
fn either_key_of_one_id_counts_while_both_are_good() {
    let entry = |seed: u8| SigningKeyEntry {
        id: "v".into(),
        key: Sample::with_key(seed).key.verifying_key(),
        not_before: None,
        not_after: None,
    };
    let ring = KeyRing::new(vec![entry(1), entry(2)], []).unwrap();
    let under = |ring: &KeyRing, seed| {
        let sample = Sample::with_key(seed).with("signing_key_id", "v".into());
        verify(&sample.signed(), ring, &sample::AUDIENCE, NOW).map(|_| ()).map_err(|e| e.check)
    };
    assert_eq!(under(&ring, 1), Ok(()));
    assert_eq!(under(&ring, 2), Ok(()));
    assert_eq!(under(&ring, 3), Err(Check::Signature));
    assert_eq!(under(&keys(), 1), Err(Check::Key));
}
