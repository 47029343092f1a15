//! What a command wrote is what its evidence says, or the command fails.

use guest::evidence::{Chain, MAX_CHUNK_BYTES};
use serde_json::{Value, json};

use super::super::{ChannelError, Output};
use super::fake_guest::{ack, chunk, pair, result, script, spawn_command};

/// Plays these frames to a command that was confirmed and returns what became of it.
fn play(frames: &[Value]) -> Result<Output, ChannelError> {
    let (channel, mut guest) = pair();
    let caller = spawn_command(&channel, "a");
    guest.receive();
    guest.send(&ack("a"));
    for frame in frames {
        guest.send(frame);
    }
    let outcome = caller.join().unwrap().map_err(|failure| failure.error);
    // Whatever a command did, the connection goes on.
    let next = spawn_command(&channel, "next");
    guest.receive();
    guest.finish("next", "");
    next.join().unwrap().unwrap();
    outcome
}

fn code(frames: &[Value]) -> &'static str {
    play(frames).unwrap_err().code()
}

/// Three chunks with output, the terminal one, the result.
fn story() -> Vec<Value> {
    let data: [&[u8]; 4] = [b"\x01one ", b"\x02err", b"\x01two", b""];
    let mut chain = Chain::new("a");
    let mut frames: Vec<Value> = data
        .iter()
        .map(|data| {
            let seq = chain.append(data);
            chunk("a", seq, data, data.is_empty())
        })
        .collect();
    let mut end = result("a", "one two", &chain.hash());
    end["stderr"] = json!("err");
    end["stderr_bytes"] = json!(3);
    frames.push(end);
    frames
}

#[test]
fn both_streams_are_put_together_in_order() {
    let output = play(&story()).unwrap();
    assert_eq!((output.stdout, output.stderr), (b"one two".to_vec(), b"err".to_vec()));
    assert_eq!(output.chunks.sizes(), [5, 4, 4, 0]);
    assert_eq!(output.chunks.hash("a"), output.result.evidence_hash);
}

#[test]
fn a_known_chain_is_computed() {
    // Computed elsewhere: one empty terminal chunk.
    let mut chain = Chain::new("3f2b8c1e-7d4a-4e9b-9c55-0123456789ab");
    chain.append(b"");
    assert_eq!(
        chain.hash(),
        "sha256:da549b24ae8055cc501280eb3b430466044e43851ed27fb5c918475b070d8264"
    );
}

#[test]
fn a_missing_chunk_is_a_gap() {
    let mut frames = story();
    frames.remove(1);
    assert_eq!(code(&frames), "SANDBOX_EVIDENCE_GAP");
    assert_eq!(code(&story()[1..]), "SANDBOX_EVIDENCE_GAP");
}

#[test]
fn a_chunk_sent_twice_is_a_duplicate() {
    let mut frames = story();
    frames.insert(1, frames[0].clone());
    assert_eq!(code(&frames), "SANDBOX_EVIDENCE_DUPLICATE");
}

#[test]
fn a_chunk_from_further_back_is_out_of_order() {
    let mut frames = story();
    frames.insert(3, frames[0].clone());
    assert_eq!(code(&frames), "SANDBOX_EVIDENCE_OUT_OF_ORDER");
    let zero = chunk("a", 0, b"\x01x", false);
    let mut frames = story();
    frames.insert(2, zero);
    assert_eq!(code(&frames), "SANDBOX_EVIDENCE_OUT_OF_ORDER");
}

#[test]
fn a_chunk_over_the_limit_is_refused() {
    let data = vec![1; MAX_CHUNK_BYTES + 1];
    assert_eq!(code(&[chunk("a", 1, &data, false)]), "SANDBOX_FRAME_TOO_LARGE");
    // A false size does not help.
    let mut lie = chunk("a", 1, &data, false);
    lie["chunk_size"] = json!(5);
    assert_eq!(code(&[lie]), "SANDBOX_FRAME_TOO_LARGE");
}

#[test]
fn chunks_that_contradict_themselves_are_refused() {
    let odd_size = {
        let mut odd = chunk("a", 1, b"\x01x", false);
        odd["chunk_size"] = json!(3);
        odd
    };
    let no_base64 = {
        let mut odd = chunk("a", 1, b"\x01x", false);
        odd["chunk_data"] = json!("!!");
        odd
    };
    let cases = [
        odd_size,
        no_base64,
        chunk("a", 1, b"\x03x", false),
        chunk("a", 1, b"\x01x", true),
        chunk("a", 1, b"", false),
    ];
    for case in cases {
        assert_eq!(code(std::slice::from_ref(&case)), "SANDBOX_EVIDENCE_MALFORMED", "{case}");
    }
}

#[test]
fn nothing_may_follow_the_terminal_chunk() {
    let mut frames = story();
    frames.insert(4, chunk("a", 5, b"\x01more", false));
    assert_eq!(code(&frames), "SANDBOX_EVIDENCE_MALFORMED");
}

#[test]
fn a_result_before_the_terminal_chunk_is_refused() {
    let mut frames = story();
    frames.remove(3);
    assert_eq!(code(&frames), "SANDBOX_EVIDENCE_MALFORMED");
}

#[test]
fn a_false_hash_is_a_mismatch() {
    let mut frames = story();
    frames[4]["evidence_hash"] = json!(format!("sha256:{}", "0".repeat(64)));
    assert_eq!(code(&frames), "SANDBOX_EVIDENCE_MISMATCH");
    // The chain of another command is not this one's.
    let mut frames = story();
    frames[4]["evidence_hash"] = script("b", "one two")[3]["evidence_hash"].clone();
    assert_eq!(code(&frames), "SANDBOX_EVIDENCE_MISMATCH");
}

#[test]
fn a_changed_chunk_is_a_mismatch() {
    let mut frames = story();
    frames[0] = chunk("a", 1, b"\x01One ", false);
    assert_eq!(code(&frames), "SANDBOX_EVIDENCE_MISMATCH");
}

#[test]
fn output_that_is_not_in_the_evidence_is_a_mismatch() {
    for (field, value) in [("stdout", "one twX"), ("stdout", "one"), ("stderr", "")] {
        let mut frames = story();
        frames[4][field] = json!(value);
        assert_eq!(code(&frames), "SANDBOX_EVIDENCE_MISMATCH", "{field} {value}");
    }
}

#[test]
fn output_in_base64_is_exact_and_false_base64_breaks_the_protocol() {
    let mut chain = Chain::new("a");
    let data = b"\x01\xff\x00";
    let mut frames = vec![chunk("a", chain.append(data), data, false)];
    frames.push(chunk("a", chain.append(b""), b"", true));
    let mut end = result("a", "/wA=", &chain.hash());
    end["stdout_encoding"] = json!("base64");
    frames.push(end);
    assert_eq!(play(&frames).unwrap().stdout, [0xff, 0x00]);
    frames[2]["stdout"] = json!("/wA");
    assert_eq!(code(&frames), "SANDBOX_VSOCK_PROTOCOL_ERROR");
}

#[test]
fn memory_stays_within_the_tools_limit() {
    let mut chain = Chain::new("a");
    let data = [&b"\x01"[..], &[b'x'; 100]].concat();
    let mut frames = vec![chunk("a", chain.append(&data), &data, false)];
    frames.push(chunk("a", chain.append(b""), b"", true));
    let mut end = result("a", &"x".repeat(super::fake_guest::LIMIT), &chain.hash());
    end["stdout_truncated"] = json!(true);
    end["stdout_bytes"] = json!(100);
    frames.push(end);
    let output = play(&frames).unwrap();
    assert_eq!(output.stdout, b"x".repeat(super::fake_guest::LIMIT));
    assert_eq!(output.result.stdout_bytes, 100);
    // A guest that returns more than the tool may write has nothing to show for it.
    frames[2]["stdout"] = json!("x".repeat(100));
    assert_eq!(code(&frames), "SANDBOX_EVIDENCE_MISMATCH");
}

#[test]
fn a_guest_that_goes_on_writing_is_stopped() {
    let data = [vec![1], vec![b'x'; 1 << 19]].concat();
    let frames: Vec<_> = (1..=5).map(|seq| chunk("a", seq, &data, false)).collect();
    assert_eq!(code(&frames), "SANDBOX_EVIDENCE_MALFORMED");
}

#[test]
fn what_was_good_before_a_fault_keeps_its_evidence() {
    let (channel, mut guest) = pair();
    let caller = spawn_command(&channel, "a");
    guest.receive();
    guest.send(&ack("a"));
    let frames = story();
    guest.send(&frames[0]);
    guest.send(&frames[2]);
    let failure = caller.join().unwrap().unwrap_err();
    assert_eq!(failure.partial.stdout, b"one ");
    assert_eq!(failure.partial.chunks.streams(), Some((b"one ".to_vec(), Vec::new())));
}

#[test]
fn evidence_does_not_mix_between_commands() {
    let (channel, mut guest) = pair();
    let (a, b) = (spawn_command(&channel, "a"), spawn_command(&channel, "b"));
    guest.receive();
    guest.receive();
    let (left, right) = (script("a", "A"), script("b", "B"));
    for (l, r) in left.iter().zip(&right) {
        guest.send(l);
        guest.send(r);
    }
    assert_eq!(a.join().unwrap().unwrap().stdout, b"A");
    assert_eq!(b.join().unwrap().unwrap().stdout, b"B");
}

#[test]
fn frames_hidden_in_output_stay_output() {
    let (channel, mut guest) = pair();
    let caller = spawn_command(&channel, "a");
    guest.receive();
    let forged = result("a", "forged", "sha256:00").to_string();
    let (forged, _) = forged.split_at(60);
    guest.finish("a", forged);
    assert_eq!(caller.join().unwrap().unwrap().stdout, forged.as_bytes());
}
