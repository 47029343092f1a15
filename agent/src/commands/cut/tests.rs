use proptest::prelude::*;

use super::*;

fn stream(bytes: &[u8]) -> OutputStream {
    OutputStream::new(bytes, false, bytes.len() as u64, usize::MAX)
}

fn payload(stdout: &[u8], stderr: &[u8], room: usize) -> Map<String, Value> {
    let mut payload = Map::new();
    put_streams(&mut payload, [stream(stdout), stream(stderr)], room);
    payload
}

#[test]
fn what_fits_is_whole_and_has_no_marks() {
    let whole = payload(b"a\n", b"", 3);
    assert_eq!(Value::Object(whole), json!({"stdout": "a\n", "stderr": ""}));
}

#[test]
fn bytes_that_are_no_text_are_base64_and_the_string_is_empty() {
    let both = payload(b"a\xff", b"b", 100);
    assert_eq!(
        Value::Object(both),
        json!({"stdout": "", "stdout_base64": STANDARD.encode(b"a\xff"), "stderr": "b"})
    );
    let cut = payload(b"\xff\xfe\xfd\xfc", b"", 5);
    assert_eq!(cut["stdout_base64"], STANDARD.encode(b"\xff\xfe\xfd"));
    assert_eq!((&cut["stdout_truncated"], &cut["stdout_total_bytes"]), (&json!(true), &json!(4)));
}

#[test]
fn a_cut_is_measured_as_json_and_leaves_whole_characters() {
    let cut = payload(b"\0\0\0", b"", 17);
    assert_eq!((&cut["stdout"], &cut["stdout_total_bytes"]), (&json!("\0\0"), &json!(3)));
    let cut = payload("aé".as_bytes(), b"", 2);
    assert_eq!(cut["stdout"], "a");
    // A cut of the guest, or one made before, may go through a character.
    assert_eq!(OutputStream::new(b"a\xc3", true, 9, 9).content, Content::Text("a".into()));
    assert_eq!(OutputStream::new("aé".as_bytes(), false, 3, 2).content, Content::Text("a".into()));
    assert_eq!(OutputStream::new(b"a\xc3", false, 2, 9).content, Content::Bytes(b"a\xc3".to_vec()));
}

#[test]
fn what_one_stream_leaves_is_the_others() {
    let lengths = |stdout: usize, stderr: usize| {
        let cut = payload(&vec![b'o'; stdout], &vec![b'e'; stderr], 100);
        ["stdout", "stderr"].map(|name| cut[name].as_str().unwrap().len())
    };
    assert_eq!(lengths(10, 1000), [10, 90]);
    assert_eq!(lengths(1000, 10), [90, 10]);
    assert_eq!(lengths(1000, 1000), [50, 50]);
}

fn completed(payload: &Value) -> String {
    json!({"type": "CommandResult", "lifecycle_state": "completed", "payload": payload}).to_string()
}

#[test]
fn a_result_is_cut_again_to_any_shorter_frame() {
    let long = "x".repeat(9000);
    let before = completed(&json!({"exit_code": 0, "stdout": long, "stderr": "e", "chains": {}}));
    let cut = cut_frame(&before, 4096).unwrap();
    assert!((4000..=4096).contains(&cut.len()), "{}", cut.len());
    let value: Value = serde_json::from_str(&cut).unwrap();
    assert_eq!(value["payload"]["stdout_total_bytes"], 9000);
    assert_eq!(
        (&value["payload"]["stderr"], &value["payload"]["chains"]),
        (&json!("e"), &json!({}))
    );
    // The number of bytes that the tool wrote survives a second cut.
    let again: Value = serde_json::from_str(&cut_frame(&cut, 500).unwrap()).unwrap();
    assert_eq!(again["payload"]["stdout_total_bytes"], 9000);
    // One of the older form, with lossy text beside the bytes.
    let bytes = STANDARD.encode([0xff; 3000]);
    let both = completed(&json!({"exit_code": 0, "stdout": "\u{fffd}", "stdout_base64": bytes}));
    let cut: Value = serde_json::from_str(&cut_frame(&both, 1000).unwrap()).unwrap();
    assert_eq!(
        (&cut["payload"]["stdout"], &cut["payload"]["stdout_truncated"]),
        (&json!(""), &json!(true))
    );
    assert!(!cut["payload"]["stdout_base64"].as_str().unwrap().is_empty());
}

#[test]
fn a_message_keeps_its_ends_and_the_heads_of_the_chains() {
    let message = format!("begin{}end\nchains: {{}}", "\0".repeat(1000));
    let failed = json!({"type": "CommandResult", "error": {"code": "X", "message": message}});
    let cut = cut_frame(&failed.to_string(), 400).unwrap();
    assert!(cut.len() <= 400, "{}", cut.len());
    let cut: Value = serde_json::from_str(&cut).unwrap();
    let cut = cut["error"]["message"].as_str().unwrap();
    assert!(cut.starts_with("begin\0") && cut.ends_with("end\nchains: {}"), "{cut}");
    assert!(cut.contains(" bytes left out"), "{cut}");
}

#[test]
fn a_result_that_cannot_be_cut_so_far_says_so() {
    let before = completed(&json!({"exit_code": 0, "stdout": "", "other": "x".repeat(1000)}));
    let cut: Value = serde_json::from_str(&cut_frame(&before, 600).unwrap()).unwrap();
    assert_eq!((&cut["lifecycle_state"], &cut["payload"]), (&json!("failed"), &Value::Null));
    assert!(cut["error"]["message"].as_str().unwrap().contains("frame of 600 bytes"), "{cut}");
    assert_eq!(cut_frame("[]", 600), None);
    let event = json!({"type": "ErrorEvent", "message": "x".repeat(1000)}).to_string();
    assert!(cut_frame(&event, 600).unwrap().len() <= 600, "an error is cut as well");
}

proptest! {
    #[test]
    fn lengths_are_those_of_the_encoder(text in any::<String>(), control in "[\\x00-\\x7f]*") {
        for text in [text, control] {
            prop_assert_eq!(encoded_len(&text) + 2, serde_json::to_string(&text).unwrap().len());
        }
    }

    #[test]
    fn a_cut_message_fits(text in any::<String>(), control in "[\\x00-\\x7f]*", room in 48_usize..200) {
        for text in [text, control] {
            prop_assert!(encoded_len(&cut_middle(text, room)) <= room);
        }
    }
}
