//! A command whose freshness the guest did not confirm has failed, whatever it wrote.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::{ChannelError, CommandFailure, Output};
use super::fake_guest::{WALL_TIME_NS, ack, pair, result, script, spawn_command, spawn_query};

const OUTPUT: &str = "hello";
const UNRELATED_HASH: &str =
    "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// Plays these frames to a command and returns what became of it.
fn play(frames: &[Value]) -> Result<Output, CommandFailure> {
    let (channel, mut guest) = pair();
    let caller = spawn_command(&channel, "a");
    guest.receive();
    for frame in frames {
        guest.send(frame);
    }
    caller.join().unwrap()
}

/// Expects the command to fail for want of freshness, with nothing of its output; returns why.
fn refused(frames: &[Value]) -> String {
    let failure = play(frames).unwrap_err();
    assert_eq!((failure.partial.stdout, failure.partial.stderr), (vec![], vec![]), "{frames:?}");
    match failure.error {
        ChannelError::NotFresh { id, detail } => {
            assert_eq!(id, "a");
            detail
        }
        other => panic!("{other}: {frames:?}"),
    }
}

/// Confirmation, one chunk, the terminal one, the result.
fn story() -> Vec<Value> {
    script("a", OUTPUT)
}

fn story_with_ack(change: impl FnOnce(&mut Value)) -> Vec<Value> {
    let mut frames = story();
    change(&mut frames[0]);
    frames
}

/// The guest's clock is so much after the time that was sent, and before it.
fn off_by(after: Duration, before: Duration) -> [Vec<Value>; 2] {
    let [after, before] = [after, before].map(|time| u64::try_from(time.as_nanos()).unwrap());
    [WALL_TIME_NS + after, WALL_TIME_NS - before]
        .map(|time| story_with_ack(|ack| ack["guest_time_ns"] = json!(time)))
}

/// What comes of a tool that was never started.
fn never_started(exit_code: i32, reason: &str) -> Vec<Value> {
    let mut frames = script("a", "");
    frames[2]["exit_code"] = json!(exit_code);
    frames[2]["reason"] = json!(reason);
    frames
}

#[test]
fn a_confirmed_command_returns_its_output() {
    assert_eq!(play(&story()).unwrap().stdout, OUTPUT.as_bytes());
    for frames in off_by(Duration::from_secs(1), Duration::from_secs(1)) {
        assert_eq!(play(&frames).unwrap().stdout, OUTPUT.as_bytes());
    }
}

#[test]
fn output_without_a_confirmation_is_refused() {
    assert_eq!(refused(&story()[1..]), "its tool wrote output all the same");
}

#[test]
fn a_result_without_a_confirmation_is_refused() {
    assert_eq!(refused(&script("a", "")[1..]), "its tool ran all the same");
    assert_eq!(refused(&[result("a", "", UNRELATED_HASH)]), "its tool ran all the same");
}

#[test]
fn a_confirmation_after_the_first_chunk_is_too_late() {
    let mut frames = story();
    frames.swap(0, 1);
    assert_eq!(refused(&frames), "its tool wrote output all the same");
    let mut frames = script("a", "");
    frames.swap(0, 1);
    assert_eq!(refused(&frames), "it confirmed them after its evidence");
}

#[test]
fn other_random_bytes_are_refused() {
    for digest in [UNRELATED_HASH, "", "sha256:"] {
        let frames = story_with_ack(|ack| ack["entropy_sha256"] = json!(digest));
        assert_eq!(refused(&frames), "it took over other random bytes than were sent");
    }
}

#[test]
fn another_time_is_refused() {
    let hour = Duration::from_secs(3600);
    let just_too_early = Duration::from_secs(1) + Duration::from_nanos(1);
    for frames in [off_by(hour, hour), off_by(hour, just_too_early)].concat() {
        let detail = refused(&frames);
        assert!(detail.contains("from the time that was sent"), "{detail}");
    }
}

/// A guest on a busy host gets no further for a while, and its clock goes on.
#[test]
fn time_that_passed_meanwhile_is_not_held_against_the_guest() {
    let (channel, mut guest) = pair();
    let caller = spawn_command(&channel, "a");
    guest.receive();
    let passed = Duration::from_millis(50);
    std::thread::sleep(passed);
    for frame in &off_by(Duration::from_secs(1) + passed, Duration::ZERO)[0] {
        guest.send(frame);
    }
    assert_eq!(caller.join().unwrap().unwrap().stdout, OUTPUT.as_bytes());
}

#[test]
fn a_second_confirmation_takes_the_output_along() {
    let mut frames = story();
    frames.insert(2, ack("a"));
    assert_eq!(refused(&frames), "it confirmed them twice");
}

#[test]
fn the_confirmation_of_another_command_does_not_count() {
    let mut frames = story();
    frames[0] = ack("b");
    refused(&frames);
}

#[test]
fn a_tool_that_was_never_started_needs_no_confirmation() {
    for (exit_code, reason) in
        [(127, "unknown_tool"), (254, "invalid_params"), (254, "start_failed")]
    {
        let frames = never_started(exit_code, reason);
        for from in [0, 1] {
            let output = play(&frames[from..]).unwrap();
            assert_eq!(output.result.exit_code, exit_code, "{reason} from {from}");
        }
    }
}

#[test]
fn what_only_looks_like_a_tool_that_was_never_started_is_refused() {
    for (exit_code, reason) in
        [(0, "start_failed"), (127, "signal"), (254, "unknown_tool"), (137, "deadline_exceeded")]
    {
        assert_eq!(refused(&never_started(exit_code, reason)[1..]), "its tool ran all the same");
    }
    let mut frames = never_started(254, "start_failed");
    frames[2]["stdout_bytes"] = json!(1);
    assert_eq!(refused(&frames[1..]), "its tool ran all the same");
}

#[test]
fn a_query_is_not_confirmed() {
    let (channel, mut guest) = pair();
    let asker = spawn_query(&channel, "q");
    guest.receive();
    guest.send(&ack("q"));
    assert_eq!(asker.join().unwrap().unwrap_err().code(), "SANDBOX_VSOCK_PROTOCOL_ERROR");
}

#[test]
fn the_error_says_what_it_means_and_what_to_do() {
    let error = play(&story()[1..]).unwrap_err().error;
    assert_eq!(
        error.to_string(),
        "the guest did not confirm new time and randomness for command a: its tool wrote output \
         all the same; its output is not used, and the sandbox must be reset"
    );
}
