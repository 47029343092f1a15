use std::time::Instant;

use serde_json::{Value, json};

use super::{Finding, Ledger, Origin};
use crate::command::{CommandHandle, EventSender, Happening, Outcome};
use crate::violation::ViolationKind;

const COMMAND: &str = "c";

/// Frames, and what is found at each.
type Trap<'a> = (&'a [(&'a str, Value)], &'a [Option<ViolationKind>]);

fn ledger() -> (Ledger, CommandHandle) {
    let mut ledger = Ledger::default();
    let (sender, receiver) = EventSender::new();
    ledger.sent(COMMAND, "endpoint", "session", Some(sender));
    let handle = CommandHandle::new(COMMAND.into(), "session".into(), String::new(), receiver);
    (ledger, handle)
}

/// Feeds frames to the ledger and gives what was found, frame by frame.
fn feed(ledger: &mut Ledger, session_id: &str, frames: &[(&str, Value)]) -> Vec<Vec<Finding>> {
    let origin = |at| Origin { endpoint_id: "endpoint", session_id, current: true, at };
    frames
        .iter()
        .map(|(kind, frame)| ledger.frame(kind, COMMAND, frame, &origin(Instant::now())))
        .collect()
}

fn kinds(findings: &[Vec<Finding>]) -> Vec<Option<ViolationKind>> {
    findings
        .iter()
        .map(|findings| match findings.as_slice() {
            [] => None,
            [Finding::Broken(kind, _)] => Some(*kind),
            other => panic!("one finding a frame: {other:?}"),
        })
        .collect()
}

fn ack() -> (&'static str, Value) {
    ("CommandAck", json!({"will_emit_progress": true}))
}

fn progress(seq: i64) -> (&'static str, Value) {
    ("ProgressEvent", json!({"seq": seq}))
}

fn completed(resumed: bool) -> (&'static str, Value) {
    ("CommandResult", json!({"lifecycle_state": "completed", "resumed": resumed}))
}

fn error() -> (&'static str, Value) {
    ("ErrorEvent", json!({"code": "ENDPOINT_NONCE_REPLAY"}))
}

async fn happenings(handle: &mut CommandHandle) -> Vec<String> {
    let mut seen = Vec::new();
    while let Some(event) = handle.next().await {
        seen.push(match event.what {
            Happening::Dispatched => "dispatched".to_owned(),
            Happening::Started(_) => "started".to_owned(),
            Happening::Progress(frame) => format!("progress {}", frame["seq"]),
            Happening::Complaint { code, .. } => code.to_owned(),
            Happening::Finished(outcome) => {
                outcome.code().map_or("completed", |code| code).to_owned()
            }
        });
    }
    seen
}

#[tokio::test]
async fn a_command_that_goes_well_breaks_no_rule() {
    let (mut ledger, mut handle) = ledger();
    let frames = [ack(), progress(1), progress(2), completed(false)];
    assert_eq!(kinds(&feed(&mut ledger, "session", &frames)), [None; 4]);
    let seen = happenings(&mut handle).await;
    assert_eq!(seen, ["dispatched", "started", "progress 1", "progress 2", "completed"]);
    assert!(handle.timings().to_ack().unwrap() <= handle.timings().to_end().unwrap());
    assert_eq!(ledger.open(), 0);
}

#[tokio::test]
async fn every_ordering_trap_is_named() {
    use ViolationKind::{
        AckAfterEnd, ProgressOrder, ResultBeforeAck, SecondAck, SecondAnswer, StrayProgress,
    };
    let traps: [Trap<'_>; 8] = [
        (&[ack(), ack()], &[None, Some(SecondAck)]),
        (&[completed(false), ack()], &[Some(ResultBeforeAck), None]),
        (&[ack(), completed(false), completed(false)], &[None, None, Some(SecondAnswer)]),
        (&[progress(1)], &[Some(StrayProgress)]),
        (&[ack(), progress(2), progress(2)], &[None, None, Some(ProgressOrder)]),
        (&[ack(), completed(false), progress(1)], &[None, None, Some(StrayProgress)]),
        (&[error(), error()], &[None, Some(SecondAnswer)]),
        (&[error(), ack()], &[None, Some(AckAfterEnd)]),
    ];
    for (frames, expected) in traps {
        let (mut ledger, _handle) = ledger();
        assert_eq!(kinds(&feed(&mut ledger, "session", frames)), expected, "{frames:?}");
    }
    let (mut ledger, _handle) = ledger();
    let silent = ("CommandAck", json!({"will_emit_progress": false}));
    let found = kinds(&feed(&mut ledger, "session", &[silent, progress(1)]));
    assert_eq!(found, [None, Some(StrayProgress)]);
}

#[tokio::test]
async fn a_result_before_its_ack_leaves_the_command_open() {
    let (mut ledger, mut handle) = ledger();
    feed(&mut ledger, "session", &[completed(false)]);
    assert_eq!(ledger.open(), 1);
    ledger.give_up(COMMAND, Instant::now());
    let seen = happenings(&mut handle).await;
    assert_eq!(seen, ["dispatched", "RELAY_INTERNAL_ERROR", "ENDPOINT_NO_ACK"]);
}

#[tokio::test]
async fn a_result_after_a_reconnect_must_say_so() {
    let (mut open, mut handle) = ledger();
    let found = feed(&mut open, "next session", &[ack(), completed(true)]);
    assert_eq!(kinds(&found), [None, None]);
    assert_eq!(happenings(&mut handle).await.last().unwrap(), "completed");

    let (mut open, _handle) = ledger();
    let found = feed(&mut open, "next session", &[ack(), completed(false)]);
    assert_eq!(kinds(&found), [None, Some(ViolationKind::NotResumed)]);
}

#[tokio::test]
async fn a_resumed_duplicate_is_late_and_no_violation() {
    let (mut ledger, _handle) = ledger();
    let found = feed(&mut ledger, "session", &[ack(), completed(false), completed(true)]);
    assert_eq!(found, [vec![], vec![], vec![Finding::Late]]);
}

#[tokio::test]
async fn whatever_follows_the_timer_or_a_restart_is_late() {
    let (mut late, mut handle) = ledger();
    late.give_up(COMMAND, Instant::now());
    assert_eq!(handle.outcome(std::time::Duration::ZERO).await, Ok(Outcome::NoAck));
    let found = feed(&mut late, "session", &[ack(), completed(false)]);
    assert_eq!(found, [vec![Finding::Late], vec![Finding::Late]]);

    let (mut restarted, mut handle) = ledger();
    feed(&mut restarted, "session", &[ack()]);
    restarted.forget_all(Instant::now());
    assert_eq!(handle.outcome(std::time::Duration::ZERO).await, Ok(Outcome::Forgotten));
    let found = feed(&mut restarted, "next session", &[completed(true)]);
    assert_eq!(found, [vec![Finding::Late]]);
}

#[tokio::test]
async fn an_envelope_sent_twice_may_be_refused_once() {
    let (mut ledger, _handle) = ledger();
    ledger.sent(COMMAND, "endpoint", "session", None);
    let frames = [ack(), error(), completed(false), error()];
    let found = kinds(&feed(&mut ledger, "session", &frames));
    assert_eq!(found, [None, None, None, Some(ViolationKind::SecondAnswer)]);
}

#[tokio::test]
async fn frames_of_strangers_are_complaints_to_the_sender() {
    let (mut ledger, mut handle) = ledger();
    let at = Instant::now();
    let other = Origin { endpoint_id: "other", session_id: "s", current: true, at };
    let found = ledger.frame("CommandAck", COMMAND, &ack().1, &other);
    assert_eq!(kinds(&[found]), [Some(ViolationKind::WrongEndpoint)]);
    let stale = Origin { endpoint_id: "endpoint", session_id: "old", current: false, at };
    assert_eq!(ledger.frame("CommandAck", COMMAND, &ack().1, &stale), []);
    assert_eq!(ledger.open(), 1);
    ledger.forget_all(at);
    let seen = happenings(&mut handle).await;
    assert_eq!(
        seen,
        ["dispatched", "RELAY_ENDPOINT_MISMATCH", "ENDPOINT_SESSION_STALE", "RELAY_INTERNAL_ERROR"]
    );
    let found = ledger.frame("CommandAck", "unheard of", &ack().1, &stale);
    assert_eq!(kinds(&[found]), [Some(ViolationKind::UnknownCommand)]);
}

#[tokio::test]
async fn a_failure_without_an_error_would_kill_a_relay() {
    let (mut ledger, _handle) = ledger();
    let failed = ("CommandResult", json!({"lifecycle_state": "failed", "error": null}));
    let found = kinds(&feed(&mut ledger, "session", &[ack(), failed]));
    assert_eq!(found, [None, Some(ViolationKind::KillsRelay)]);
}
