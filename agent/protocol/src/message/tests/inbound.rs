use proptest::prelude::*;

use super::super::inbound::MAX_FRAME_BYTES;
use super::*;

const SESSION: &str = "65b162bd-0578-4700-82a5-a3458aba016d";

fn of(frame: &Value) -> Inbound {
    classify(&frame.to_string())
}

#[track_caller]
fn assert_malformed(text: &str) {
    let Inbound::Malformed { reason } = classify(text) else { panic!("{:?}", classify(text)) };
    assert!(!reason.is_empty() && reason.len() < 1024, "{reason}");
}

#[test]
fn an_ack() {
    let full = json!({
        "type": "EndpointHelloAck", "session_id": SESSION, "server_protocol_version": "v1",
        "ts": TIME,
    });
    let Inbound::Ack(ack) = of(&full) else { panic!("{:?}", of(&full)) };
    assert_eq!((ack.session_id.as_str(), ack.ts), (SESSION, Some(TS)));
    assert_eq!(ack.server_protocol_version, "v1");
    let bare =
        json!({"type": "EndpointHelloAck", "session_id": SESSION, "server_protocol_version": "v1"});
    assert!(matches!(of(&bare), Inbound::Ack(EndpointHelloAck { ts: None, .. })));
    for (field, put) in [
        ("session_id", json!("x")),
        ("session_id", json!(null)),
        ("server_protocol_version", json!(1)),
        ("ts", json!("now")),
    ] {
        let mut frame = full.clone();
        frame[field] = put;
        assert_malformed(&frame.to_string());
    }
    let mut later = full.clone();
    later["capabilities"] = json!({"compression": [1]});
    assert!(matches!(of(&later), Inbound::Ack(_)), "a later relay may say more");
    assert_malformed(&json!({"type": "EndpointHelloAck"}).to_string());
}

#[test]
fn health() {
    let ping = json!({"type": "HealthPing", "session_id": SESSION, "ts": TIME, "ping_id": "p"});
    assert!(matches!(of(&ping), Inbound::HealthPing(ping) if ping.ping_id == "p"));
    assert!(matches!(of(&json!({"type": "HealthPing", "ping_id": "p"})), Inbound::HealthPing(_)));
    for ping_id in [json!(""), json!("p".repeat(257)), json!(1), json!(null)] {
        assert_malformed(&json!({"type": "HealthPing", "ping_id": ping_id}).to_string());
    }
    let later = json!({"type": "HealthPing", "ping_id": "p", "extra": 1});
    assert!(matches!(of(&later), Inbound::HealthPing(_)));
    let later = json!({"type": "HealthPong", "ping_id": "p", "extra": {}});
    assert!(matches!(of(&later), Inbound::HealthPong(_)));
    assert_malformed(&json!({"type": "HealthPing"}).to_string());
    let answer = json!({
        "type": "HealthPong", "session_id": SESSION, "ts": TIME, "ping_id": "p", "agent_health": "ok",
    });
    assert!(matches!(of(&answer), Inbound::HealthPong(read) if read.ping_id == "p"));
}

#[test]
fn an_error() {
    let full = json!({
        "type": "ErrorEvent", "code": "RELAY_X", "message": "m", "command_id": "c", "more": [1],
    });
    let Inbound::Error(error) = of(&full) else { panic!("{:?}", of(&full)) };
    assert_eq!((error.code.as_str(), error.message.as_str()), ("RELAY_X", "m"));
    assert_eq!(error.command_id.as_deref(), Some("c"));
    assert_malformed(&json!({"type": "ErrorEvent", "code": 5}).to_string());
}

#[test]
fn a_command_by_its_type_alone() {
    assert_eq!(classify(r#" {"x":{"type":1},"type":"CommandEnvelope"}"#), Inbound::Envelope);
    assert_eq!(classify(r#"{"type":"Command\u0045nvelope"}"#), Inbound::Envelope);
}

#[test]
fn an_object_of_another_type() {
    let unknown = |kind: Option<&str>| Inbound::Unknown { kind: kind.map(str::to_owned) };
    assert_eq!(of(&json!({"type": "EndpointHello"})), unknown(Some("EndpointHello")));
    assert_eq!(of(&json!({"type": "x".repeat(5000)})), unknown(Some(&"x".repeat(128))));
    for frame in [json!({}), json!({"type": 5}), json!({"type": null}), json!({"type": {"a": 1}})] {
        assert_eq!(of(&frame), unknown(None), "{frame}");
    }
}

#[test]
fn anything_else() {
    let deep = "[".repeat(MAX_FRAME_BYTES);
    for text in [
        "",
        "null",
        "1",
        "[1]",
        r#"["HealthPing","p"]"#,
        "\"CommandEnvelope\"",
        "{",
        r#"{"type":"HealthPing"#,
        r#"{"type":"HealthPing","ping_id":"p"}{}"#,
        r#"{"type":"HealthPing","type":"CommandEnvelope"}"#,
        r#"{"type":"CommandEnvelope","x":}"#,
        r#"{"type":"\ud800"}"#,
        "\u{feff}{}",
        &deep,
        &format!("{{\"type\":\"{}\"}}", "x".repeat(MAX_FRAME_BYTES)),
        &format!("{{\"type\":{}", &deep[10..]),
        &format!("{{\"type\":\"HealthPing\",\"{}\":1}}", "x".repeat(5000)),
    ] {
        assert_malformed(text);
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in prop_oneof![
        any::<String>(),
        "\\{\"type\":\"(EndpointHelloAck|HealthPing|HealthPong|ErrorEvent)\"[ -~]{0,60}\\}?",
        "\\{\"type\":[\\[\\]{}:,\"0-9a\\\\u]{0,40}",
    ]) {
        match classify(&text) {
            Inbound::Malformed { reason } => prop_assert!(reason.len() < 2048),
            Inbound::Unknown { kind } => prop_assert!(kind.is_none_or(|kind| kind.chars().count() <= 128)),
            _ => {}
        }
    }
}
