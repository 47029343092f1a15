//! The guest's side of the framing, fed with everything it must refuse.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so by failing"
)]

use std::io::Write;
use std::time::Duration;

use guest::wire::{Freshness, entropy_sha256};
use integration_tests::{RawGuest, Received, dispatch, freshness};
use serde_json::{Value, json};

fn error_code(received: &Received) -> Option<&str> {
    match received {
        Received::Frame(frame) if frame["type"] == "ErrorEvent" => frame["code"].as_str(),
        _ => None,
    }
}

/// Sends raw bytes on a fresh connection and expects `code`, then the end of that connection.
fn refused(guest: &RawGuest, bytes: &[u8], code: &str) {
    let mut connection = guest.connect();
    connection.stream.write_all(bytes).unwrap();
    let first = connection.receive();
    assert_eq!(error_code(&first), Some(code), "{first:?}");
    assert_eq!(connection.receive(), Received::Closed);
    guest.assert_works();
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

#[test]
fn lengths_out_of_range_close_that_connection_only() {
    let guest = RawGuest::boot("");
    refused(&guest, &0_u32.to_be_bytes(), "FRAME_MALFORMED");
    refused(&guest, &(16 * 1024 * 1024 + 1_u32).to_be_bytes(), "FRAME_TOO_LARGE");
    refused(&guest, &u32::MAX.to_be_bytes(), "FRAME_TOO_LARGE");
}

#[test]
fn what_is_not_a_message_is_refused() {
    let guest = RawGuest::boot("");
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let query =
        json!({"type": "GuestQuery", "query_id": "q", "query_kind": "Everything", "ts": ""});
    let mut extra = dispatch("c", "echo", &json!({}), 1000);
    extra["surprise"] = json!(1);
    let mut float = dispatch("c", "echo", &json!({}), 1000);
    float["deadline_ms"] = json!(1.5);
    let mut stale = dispatch("c", "echo", &json!({}), 1000);
    stale.as_object_mut().unwrap().remove("freshness");
    let mut short = dispatch("c", "echo", &json!({}), 1000);
    short["freshness"]["entropy"] = json!("AAAA");
    for body in [
        b"garbage".to_vec(),
        b"\xff\xfe\xfd".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"{}".to_vec(),
        br#"{"type":"Nonsense"}"#.to_vec(),
        br#"{"TYPE":"GuestQuery"}"#.to_vec(),
        deep.into_bytes(),
        query.to_string().into_bytes(),
        extra.to_string().into_bytes(),
        float.to_string().into_bytes(),
        stale.to_string().into_bytes(),
        short.to_string().into_bytes(),
        dispatch("c", "echo", &json!([]), 1000).to_string().into_bytes(),
    ] {
        refused(&guest, &framed(&body), "FRAME_MALFORMED");
    }
}

#[test]
fn a_header_in_pieces_is_put_together() {
    let guest = RawGuest::boot("");
    let mut connection = guest.connect();
    let frame =
        framed(dispatch("slow", "echo", &json!({"message": "x"}), 10_000).to_string().as_bytes());
    for byte in &frame {
        connection.stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(connection.result_of("slow")["stdout"], "x\n");
}

#[test]
fn an_end_in_the_middle_of_a_frame_does_no_harm() {
    let guest = RawGuest::boot("");
    for cut in [1, 3, 4, 10] {
        let frame = framed(dispatch("cut", "echo", &json!({}), 1000).to_string().as_bytes());
        let mut connection = guest.connect();
        connection.stream.write_all(&frame[..cut]).unwrap();
        drop(connection);
    }
    guest.assert_works();
}

#[test]
fn sixty_four_connections_are_served_at_once() {
    let guest = RawGuest::boot("");
    let mut connections: Vec<_> = (0..64).map(|_| guest.connect()).collect();
    for (index, connection) in connections.iter_mut().enumerate() {
        connection.send(&query(&format!("q{index}"), "MemUsage"));
    }
    for (index, connection) in connections.iter_mut().enumerate() {
        let Received::Frame(answer) = connection.receive() else { panic!("closed") };
        assert_eq!(answer["query_id"], format!("q{index}"));
        assert!(answer["result"]["bytes_total"].as_u64().unwrap() > 32 << 20);
    }
    drop(connections);
    guest.assert_works();
}

fn query(id: &str, kind: &str) -> Value {
    json!({"type": "GuestQuery", "query_id": id, "query_kind": kind, "ts": "2026-01-02T03:04:05.678Z"})
}

#[test]
fn all_three_queries_are_answered_while_a_tool_runs() {
    let guest = RawGuest::boot("BSM_ENABLE_TOOLS=sh");
    let mut connection = guest.connect();
    connection.send(&dispatch("long", "sh", &json!({"script": "sleep 2; echo done"}), 20_000));
    assert!(matches!(connection.receive(), Received::Frame(f) if f["type"] == "FreshnessAck"));
    std::thread::sleep(Duration::from_millis(500));
    let mut answers = Vec::new();
    for kind in ["OpenFdCount", "MemUsage", "ProcessList"] {
        connection.send(&query(kind, kind));
        let Received::Frame(answer) = connection.receive() else { panic!("closed") };
        assert_eq!(answer["type"], "GuestResponse", "{answer}");
        assert_eq!(answer["query_kind"], kind);
        answers.push(answer["result"].clone());
    }
    let during = answers[0]["open_fd_count"].as_i64().unwrap();
    assert!(during >= answers[0]["pid1_open_fd_count"].as_i64().unwrap());
    let processes = answers[2]["processes"].as_array().unwrap();
    assert!(processes.iter().any(|p| p["pid"] == 1), "{processes:?}");
    assert!(processes.iter().any(|p| p["name"] == "sleep"), "{processes:?}");
    assert!(processes.len() <= 100);
    assert_eq!(connection.result_of("long")["stdout"], "done\n");

    connection.send(&query("after", "OpenFdCount"));
    let Received::Frame(answer) = connection.receive() else { panic!("closed") };
    assert!(answer["result"]["open_fd_count"].as_i64().unwrap() < during, "{answer}");
}

#[test]
fn a_reset_signal_kills_tools_and_claims_nothing() {
    let guest = RawGuest::boot("BSM_ENABLE_TOOLS=sh");
    let mut connection = guest.connect();
    connection.send(&dispatch("long", "sh", &json!({"script": "sleep 60"}), 60_000));
    std::thread::sleep(Duration::from_millis(300));
    connection.send(&json!({"type": "ResetSignal", "reset_id": "r1", "reason": "post_dispatch"}));
    loop {
        let Received::Frame(frame) = connection.receive() else { panic!("closed") };
        if frame["type"] == "ResetAck" {
            assert_eq!(frame["reset_id"], "r1");
            assert_eq!(frame["verification_passed"], false);
            break;
        }
    }
    connection.send(&query("p", "ProcessList"));
    loop {
        let Received::Frame(frame) = connection.receive() else { panic!("closed") };
        if frame["type"] == "GuestResponse" {
            assert!(!frame["result"].to_string().contains("\"sleep\""), "{frame}");
            break;
        }
    }
}

#[test]
fn a_command_id_is_used_once() {
    let guest = RawGuest::boot("");
    let mut connection = guest.connect();
    let frame = dispatch("same", "echo", &json!({"message": "x"}), 10_000);
    connection.send(&frame);
    assert_eq!(connection.result_of("same")["exit_code"], 0);
    let mut second = guest.connect();
    second.send(&frame);
    let answer = second.receive();
    assert_eq!(error_code(&answer), Some("DUPLICATE_COMMAND_ID"), "{answer:?}");
}

/// Dispatches with this wall time and returns what came until and with the result.
fn run_at(guest: &RawGuest, id: &str, wall_time_ns: u64) -> Vec<Value> {
    let mut connection = guest.connect();
    let mut frame = dispatch(id, "sh", &json!({"script": "date +%s"}), 20_000);
    frame["freshness"]["wall_time_ns"] = json!(wall_time_ns);
    connection.send(&frame);
    let mut frames = Vec::new();
    while frames.last().is_none_or(|frame: &Value| frame["type"] != "ToolResult") {
        let Received::Frame(frame) = connection.receive() else { panic!("closed: {frames:?}") };
        frames.push(frame);
    }
    frames
}

#[test]
fn a_tool_starts_after_the_guest_has_confirmed_time_and_randomness() {
    const SECOND: u64 = 1_000_000_000;
    let guest = RawGuest::boot("BSM_ENABLE_TOOLS=sh");
    // Forward, and back again.
    for (id, second) in [("later", 4_000_000_000), ("earlier", 1_700_000_000)] {
        let frames = run_at(&guest, id, second * SECOND);
        assert_eq!(
            (&frames[0]["type"], &frames[0]["command_id"]),
            (&json!("FreshnessAck"), &json!(id))
        );
        let guest_time = frames[0]["guest_time_ns"].as_u64().unwrap();
        assert!(guest_time.abs_diff(second * SECOND) <= SECOND, "{guest_time}");
        let confirmed = frames.iter().filter(|frame| frame["type"] == "FreshnessAck");
        assert_eq!(confirmed.count(), 1);
        let result = frames.last().unwrap();
        let date: u64 = result["stdout"].as_str().unwrap().trim().parse().unwrap();
        // The tool itself may take its time to start under emulation.
        assert!((second..second + 30).contains(&date), "{id}: {date}");
    }
}

#[test]
fn the_confirmation_names_the_random_bytes() {
    let guest = RawGuest::boot("");
    let mut connection = guest.connect();
    let frame = dispatch("c", "echo", &json!({"message": "x"}), 10_000);
    let sent: Freshness = serde_json::from_value(frame["freshness"].clone()).unwrap();
    connection.send(&frame);
    let Received::Frame(ack) = connection.receive() else { panic!("closed") };
    assert_eq!(ack["entropy_sha256"], entropy_sha256(&sent.entropy_bytes().unwrap()), "{ack}");
    assert_eq!(connection.result_of("c")["stdout"], "x\n");
}

#[test]
fn no_tool_starts_at_a_time_the_clock_cannot_show() {
    let guest = RawGuest::boot("BSM_ENABLE_TOOLS=sh");
    let frames = run_at(&guest, "never", u64::MAX);
    let result = frames.last().unwrap();
    assert_eq!((&result["exit_code"], &result["reason"]), (&json!(254), &json!("start_failed")));
    assert!(result["message"].as_str().unwrap().contains("cannot set the clock"), "{result}");
    assert!(frames.iter().all(|frame| frame["type"] != "FreshnessAck"), "{frames:?}");
    guest.assert_works();
}

/// A body of nearly 16 MiB, most of it quotation marks: quoted in an answer they take more room.
fn nearly_too_large(prefix: &str, suffix: &str) -> Vec<u8> {
    let filler = r#"\""#.repeat((16 * 1024 * 1024 - 1024) / 2);
    framed(format!("{prefix}{filler}{suffix}").as_bytes())
}

#[test]
fn an_id_as_large_as_a_frame_is_refused() {
    let guest = RawGuest::boot("");
    let prefix = format!(
        r#"{{"type":"ToolDispatch","tool":"echo","freshness":{},"command_id":""#,
        freshness()
    );
    let mut connection = guest.connect();
    connection.stream.write_all(&nearly_too_large(&prefix, r#""}"#)).unwrap();
    let first = connection.receive();
    // Without the message: it might be 16 MiB.
    assert!(error_code(&first) == Some("FRAME_MALFORMED"));
    guest.assert_works();
}

#[test]
fn an_unknown_field_as_large_as_a_frame_is_refused() {
    let guest = RawGuest::boot("");
    let body = nearly_too_large(r#"{"type":"ResetSignal",""#, r#"":1}"#);
    refused(&guest, &body, "FRAME_MALFORMED");
}

#[test]
fn a_command_as_large_as_a_frame_gets_its_result() {
    let guest = RawGuest::boot("");
    for (id, prefix, suffix, exit_code) in [
        ("tool", r#""tool":""#, r#""}"#, 127),
        ("parameter", r#""tool":"echo","params":{""#, r#"":1}}"#, 254),
    ] {
        let mut connection = guest.connect();
        let freshness = freshness();
        let start = format!(
            r#"{{"type":"ToolDispatch","command_id":"{id}","freshness":{freshness},{prefix}"#
        );
        connection.stream.write_all(&nearly_too_large(&start, suffix)).unwrap();
        assert!(matches!(connection.receive(), Received::Frame(f) if f["type"] == "FreshnessAck"));
        assert!(matches!(connection.receive(), Received::Frame(f) if f["type"] == "EvidenceChunk"));
        let Received::Frame(result) = connection.receive() else { panic!("no result for {id}") };
        assert_eq!(result["exit_code"], exit_code, "{id}");
        guest.assert_works();
    }
}
