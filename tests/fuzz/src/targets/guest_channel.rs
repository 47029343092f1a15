//! The host's side of a control connection. Each line of the input is the body of a frame from the
//! guest; where a result names no evidence hash it gets the one of the chunks before it, so that
//! what comes after a right hash is reached too. A line that starts with `!` is sent as it is,
//! without a header.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use guest::evidence::Chain;
use guest::framing::HEADER_BYTES;
use sandbox::fuzzing::{COMMAND_ID, converse};
use serde_json::Value;

pub fn run(input: &[u8]) {
    let mut chain = Chain::new(COMMAND_ID);
    let mut stream = Vec::with_capacity(input.len() + 64);
    for line in input.split(|byte| *byte == b'\n') {
        if let Some(raw) = line.strip_prefix(b"!") {
            stream.extend(raw);
            continue;
        }
        let body = completed(line, &mut chain);
        let header: [u8; HEADER_BYTES] = (body.len() as u32).to_be_bytes();
        stream.extend(header);
        stream.extend(body);
    }
    if let Some(accepted) = converse(stream) {
        let (stdout, stderr) = accepted.chunks.streams().expect("evidence that was taken has tags");
        assert_eq!(accepted.chunks.hash(COMMAND_ID), accepted.evidence_hash);
        assert!(stdout.starts_with(&accepted.stdout) && stderr.starts_with(&accepted.stderr));
    }
}

fn completed(line: &[u8], chain: &mut Chain) -> Vec<u8> {
    let Ok(mut message) = serde_json::from_slice::<Value>(line) else { return line.to_vec() };
    if let Some(data) = message["chunk_data"].as_str().and_then(|text| STANDARD.decode(text).ok()) {
        chain.append(&data);
    }
    match message.get_mut("evidence_hash") {
        Some(hash) if hash == "" => *hash = chain.hash().into(),
        _ => return line.to_vec(),
    }
    message.to_string().into_bytes()
}
