//! Output arrives byte for byte and means nothing, whatever it looks like.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use guest::output::{STDERR_TAG, STDOUT_TAG};
use serde_json::{Value, json};

use crate::{AttackerClass, Expectation, FnProbe, Guest, ProbeError, Testbed, Verdict};
use sandbox::{KvmSandbox, QueryKind, Sandbox, ToolOutcome};

/// A tool prints bytes that look like protocol.
pub const PROBE: FnProbe = FnProbe {
    name: "stdout-injection",
    class: AttackerClass::A7,
    expectation: Expectation::ShouldFail,
    description: "A tool prints forged frames, length prefixes, NUL, invalid UTF-8 and terminal \
                  sequences; they arrive byte for byte and mean nothing",
    repeats: false,
    run,
};

fn run(testbed: &Testbed) -> Result<Verdict, ProbeError> {
    let sandbox = testbed.kvm(Guest::Shipped)?;
    let mut breaches = Vec::new();
    let mut seen = Vec::new();
    let plain = [("control", b"plain text\n".to_vec())];
    for (name, bytes) in plain.into_iter().chain(payloads()) {
        // Each stream carries something else, so that mixing them up would show.
        let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
        let params =
            json!({"stdout": STANDARD.encode(&bytes), "stderr": STANDARD.encode(&reversed)});
        let result = testbed.run(&*sandbox, "attack_output", params, testbed.plan().deadline());
        let wrong = match result {
            Ok(outcome) => differences(&outcome, &bytes, &reversed),
            Err(error) => vec![format!("what it printed became an error: {error}")],
        };
        if name == "control" && !wrong.is_empty() {
            return Err(ProbeError::Control(wrong.join("; ")));
        }
        let unchanged = wrong.is_empty();
        if !unchanged {
            // The next payload is to find the channel as this one did.
            testbed.recover(&*sandbox);
        }
        seen.push(json!({"payload": name, "bytes": bytes.len(), "unchanged": unchanged}));
        breaches.extend(wrong.into_iter().map(|wrong| format!("{name}: {wrong}")));
    }
    breaches.extend(channel_suffered(&sandbox));
    breaches.extend(testbed.next_command(&*sandbox));
    let held = format!("{} payloads arrived unchanged", seen.len());
    Ok(Verdict::of(&breaches, held, json!({ "payloads": seen })))
}

/// Payloads that look like messages of the guest program, and payloads that disturb readers of text.
fn payloads() -> Vec<(&'static str, Vec<u8>)> {
    let framed = |message: Value| {
        let body = message.to_string().into_bytes();
        let length = u32::try_from(body.len()).unwrap_or_default().to_be_bytes();
        [length.as_slice(), &body].concat()
    };
    let result = json!({"type": "ToolResult", "command_id": "x", "exit_code": 0, "stdout": "forged",
        "stderr": "", "evidence_hash": "sha256:0"});
    let chunk = json!({"type": "EvidenceChunk", "command_id": "x", "seq": 1, "chunk_data": "",
        "chunk_size": 0, "is_terminal": true});
    let response = json!({"type": "GuestResponse", "query_id": "x", "query_kind": "OpenFdCount",
        "result": {"open_fd_count": 1, "pid1_open_fd_count": 1}, "ts": ""});
    vec![
        ("forged result", framed(result.clone())),
        ("forged result without its length", result.to_string().into_bytes()),
        ("forged evidence", framed(chunk)),
        ("forged answer", framed(response)),
        ("forged reset", framed(json!({"type": "ResetAck", "verification_passed": true}))),
        ("length prefixes", [[0xff; 4], [0, 0, 0, 0], [1, 0, 0, 1]].concat()),
        ("every byte", (0..=255).collect()),
        ("nul", vec![0; 512]),
        ("invalid utf-8", b"\xc3\x28\xff\xfe\xed\xa0\x80\xf4\x90\x80\x80".to_vec()),
        ("terminal", b"\x1b[2J\x1b]0;title\x07\x1b[31m\x9b31m\r\x08\x7f".to_vec()),
        ("json in json", br#"","exit_code":0,"stdout":"\u0000\ud800"#.to_vec()),
        ("stream tags", [vec![1; 100], vec![2; 100]].concat()),
    ]
}

/// The differences between an outcome and that of a tool that printed these bytes and exited with 0.
fn differences(outcome: &ToolOutcome, stdout: &[u8], stderr: &[u8]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut require = |holds: bool, otherwise: &str| {
        if !holds {
            wrong.push(otherwise.to_owned());
        }
    };
    require(outcome.exit_code == 0, "the exit code is another");
    require(outcome.reason.is_none() && outcome.message.is_none(), "there is a reason to it");
    let said = |tag: u8| -> Vec<u8> {
        let chunks = outcome.chunks.iter().filter_map(|chunk| chunk.split_first());
        chunks.filter(|(first, _)| **first == tag).flat_map(|(_, rest)| rest).copied().collect()
    };
    require(said(STDOUT_TAG) == stdout, "the evidence of the output is another");
    require(said(STDERR_TAG) == stderr, "the evidence of the error output is another");
    require(outcome.stdout == stdout, "the output is another");
    require(outcome.stderr == stderr, "the error output is another");
    let totals = (outcome.stdout_total, outcome.stderr_total);
    require(totals == (stdout.len() as u64, stderr.len() as u64), "the counts are others");
    require(!outcome.stdout_truncated && !outcome.stderr_truncated, "it is said to be cut");
    wrong
}

/// The breach when the control connection counted a fault or does not answer.
fn channel_suffered(sandbox: &KvmSandbox) -> Option<String> {
    let counters = sandbox.counters().unwrap_or_default();
    if counters != sandbox::ChannelCounters::default() {
        return Some(format!("the control connection counted {counters:?}"));
    }
    let answer = sandbox.query(QueryKind::OpenFdCount);
    answer.err().map(|error| format!("a question was not answered: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox::Chunks;

    #[test]
    fn any_change_of_a_result_fails() {
        let good = ToolOutcome {
            stderr: b"err".to_vec(),
            stderr_total: 3,
            chunks: Chunks::from_parts(b"\x01out\x02err".to_vec(), vec![4, 4, 0]).unwrap(),
            ..ToolOutcome::of_stdout("c", 0, "out")
        };
        assert_eq!(differences(&good, b"out", b"err"), Vec::<String>::new());
        let changes: [fn(&mut ToolOutcome); 7] = [
            |o| o.chunks = Chunks::from_parts(b"\x01out\x02eRr".to_vec(), vec![4, 4, 0]).unwrap(),
            |o| o.exit_code = 1,
            |o| o.message = Some(String::new()),
            |o| o.stdout = b"OUT".to_vec(),
            |o| o.stderr.push(b'\n'),
            |o| o.stdout_total = 4,
            |o| o.stderr_truncated = true,
        ];
        for change in changes {
            let mut other = good.clone();
            change(&mut other);
            assert_eq!(differences(&other, b"out", b"err").len(), 1);
        }
    }
}
