//! The closed schema: every field missing, of every wrong type, and of wrong forms.

use serde_json::{Value, json};

use super::sample::{Sample, check, refused};
use super::*;

const REFUSED: (&str, Check) = ("ENDPOINT_SCHEMA_INVALID", Check::Schema);

fn fields() -> Vec<String> {
    Sample::new().value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn every_field_must_be_there() {
    assert_eq!(fields().len(), 16);
    for field in fields() {
        let text = Sample::new().without(&field).signed();
        assert_eq!(refused(&text), REFUSED, "{field}");
        let message = check(&text).unwrap_err().message;
        assert!(message.contains(&field) && message.contains("missing"), "{message}");
    }
}

#[test]
fn every_field_must_have_its_type() {
    let values = [
        json!(null),
        json!(true),
        json!(1),
        json!("x"),
        json!(""),
        json!([]),
        json!(["x"]),
        json!({}),
        json!({"x": 1}),
    ];
    for field in fields() {
        for value in &values {
            let right = match field.as_str() {
                "params" => value.is_object(),
                // Another text is an envelope of another tenant or key, and so on.
                "tenant_id" | "signing_key_id" | "tool" | "correlation_id" => *value == json!("x"),
                "signature" | "signature_algo" => value.is_string(),
                _ => false,
            };
            let text = Sample::new().with(&field, value.clone()).signed();
            if !right {
                assert_eq!(refused(&text), REFUSED, "{field}: {value}");
                let message = check(&text).unwrap_err().message;
                assert!(message.contains(&field), "{message}");
            } else if let Err(refusal) = check(&text) {
                assert!(refusal.check > Check::Schema, "{field}: {value}: {refusal}");
            }
        }
    }
}

#[test]
fn there_must_be_no_other_field() {
    for field in ["extra", "", "Type", "deadline_ms", "a", "zzz", "__proto__", "sign\u{e9}"] {
        let text = Sample::new().with(field, json!(null)).signed();
        assert_eq!(refused(&text), REFUSED, "{field}");
    }
    let operator = json!({"kind": "human", "id": "x", "auth_proof": {}});
    let text = Sample::new().with("operator", operator).signed();
    assert_eq!(refused(&text), REFUSED);
    assert!(check(&text).unwrap_err().message.contains("operator.auth_proof"));
}

#[test]
fn an_operator_is_a_person_or_an_agent_of_one() {
    for operator in [
        json!({}),
        json!({"kind": "human"}),
        json!({"id": "x"}),
        json!({"kind": "human", "id": ""}),
        json!({"kind": "human", "id": 1}),
        json!({"kind": "Human", "id": "x"}),
        json!({"kind": "robot", "id": "x"}),
        json!({"kind": null, "id": "x"}),
        json!({"kind": "human", "id": "x", "originating_human_id": ""}),
        json!({"kind": "human", "id": "x", "originating_human_id": null}),
        json!({"kind": "agent", "id": "x"}),
        json!({"kind": "agent", "id": "x", "originating_human_id": ""}),
        json!({"kind": "agent", "id": "x", "originating_human_id": 1}),
    ] {
        let text = Sample::new().with("operator", operator.clone()).signed();
        assert_eq!(refused(&text), REFUSED, "{operator}");
    }
}

#[test]
fn texts_have_their_forms() {
    let nonce = Sample::new().text("nonce").to_owned();
    let bad: Vec<(&str, Value)> = vec![
        ("type", "commandenvelope".into()),
        ("command_id", "1".into()),
        ("command_id", "3f2b8c1e7d4a4e9b9c550123456789ab".into()),
        ("target_endpoint_id", "endpoint-1".into()),
        ("session_id", "session-1".into()),
        ("correlation_id", "a b".into()),
        ("correlation_id", "c".repeat(257).into()),
        ("correlation_id", "caf\u{e9}".into()),
        ("correlation_id", "a\u{7f}".into()),
        ("tool", "t".repeat(257).into()),
        ("tool", "a\nb".into()),
        ("tool", "caf\u{e9}".into()),
        ("lifecycle_state", "started".into()),
        ("lifecycle_state", "Dispatched".into()),
        ("issued_at", "2026-01-02".into()),
        ("issued_at", "now".into()),
        ("expires_at", 1_767_323_045.into()),
        ("nonce", nonce[1..].into()),
        ("nonce", format!("{nonce}=").into()),
        ("nonce", nonce.replace("Hh8", "Hh9").into()),
        ("nonce", nonce.replace("Hh8", "H/8").into()),
    ];
    for (field, value) in bad {
        let text = Sample::new().with(field, value.clone()).signed();
        assert_eq!(refused(&text), REFUSED, "{field}: {value}");
    }
}
