//! Replies find their callers.

use std::time::{Duration, Instant};

use guest::wire::Freshness;
use serde_json::json;

use super::super::ChannelError;
use super::fake_guest::{
    ENTROPY, LIMIT, WALL_TIME_NS, dispatch, error_of, pair, query, response, spawn_command,
    spawn_query,
};

#[test]
fn a_command_goes_out_whole_and_its_result_comes_back() {
    let (channel, mut guest) = pair();
    let caller = spawn_command(&channel, "a");
    assert_eq!(
        guest.receive(),
        json!({"type": "ToolDispatch", "command_id": "a", "tool": "echo",
               "params": {"message": "hello"}, "deadline_ms": 1000,
               "freshness": Freshness::new(WALL_TIME_NS, &ENTROPY)})
    );
    guest.finish("a", "hello\n");
    let output = caller.join().unwrap().unwrap();
    assert_eq!(output.stdout, b"hello\n");
    assert_eq!((output.stderr, output.result.exit_code), (vec![], 0));
}

#[test]
fn replies_in_any_order_find_their_callers() {
    let (channel, mut guest) = pair();
    let ids = ["a", "b", "c", "d"];
    let callers: Vec<_> = ids.iter().map(|id| spawn_command(&channel, id)).collect();
    let asker = spawn_query(&channel, "q");
    for _ in 0..=ids.len() {
        guest.receive();
    }
    guest.send(&response("q"));
    assert_eq!(asker.join().unwrap().unwrap().query_id, "q");
    for id in ids.iter().rev() {
        guest.finish(id, id);
    }
    for (id, caller) in ids.iter().zip(callers) {
        assert_eq!(caller.join().unwrap().unwrap().stdout, id.as_bytes());
    }
    assert_eq!(channel.counters().late_arrivals, 0);
}

#[test]
fn questions_that_are_asked_together_travel_together_and_are_answered_one_by_one() {
    let (channel, mut guest) = pair();
    let questions = ["p", "q", "r"];
    let asker = {
        let channel = channel.clone();
        std::thread::spawn(move || {
            let until = Instant::now() + super::fake_guest::PATIENCE;
            channel.query_all(questions.map(query).to_vec(), until)
        })
    };
    // All of them are there at once: no caller waits for an answer before it asks on.
    let mut ids = questions.map(|_| guest.receive()["query_id"].as_str().unwrap().to_owned());
    ids.reverse();
    for id in &ids {
        guest.send(&response(id));
    }
    let answers = asker.join().unwrap();
    let answered: Vec<_> =
        answers.iter().map(|answer| &answer.as_ref().unwrap().query_id).collect();
    assert_eq!(answered, questions);
    assert_eq!(channel.counters().late_arrivals, 0);
}

#[test]
fn a_question_without_an_answer_costs_the_others_nothing() {
    let (channel, mut guest) = pair();
    let until = Instant::now() + Duration::from_millis(300);
    let asker = {
        let channel = channel.clone();
        std::thread::spawn(move || channel.query_all(["a", "b", "c"].map(query).to_vec(), until))
    };
    for _ in 0..3 {
        guest.receive();
    }
    guest.send(&response("a"));
    guest.send(&response("c"));
    let answers = asker.join().unwrap();
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    assert_eq!(answers[1].as_ref().unwrap_err(), &ChannelError::TimedOut { id: "b".into() });
    // What comes later has no caller.
    guest.send(&response("b"));
    let next = spawn_query(&channel, "next");
    guest.receive();
    guest.send(&response("next"));
    assert!(next.join().unwrap().is_ok());
    assert!(channel.counters().late_arrivals >= 1);
}

#[test]
fn questions_asked_together_fail_together_and_leave_others_alone() {
    let (channel, mut guest) = pair();
    let first = spawn_query(&channel, "b");
    guest.receive();
    let until = Instant::now() + super::fake_guest::PATIENCE;
    let refused = channel.query_all(["a", "b"].map(query).to_vec(), until);
    let duplicate = ChannelError::DuplicateRequest { id: "b".into() };
    assert_eq!(refused, [Err(duplicate.clone()), Err(duplicate)]);
    guest.send(&response("b"));
    assert!(first.join().unwrap().is_ok());
    // None of them is in flight any more.
    let again = spawn_query(&channel, "a");
    guest.receive();
    guest.send(&response("a"));
    assert!(again.join().unwrap().is_ok());
}

#[test]
fn many_callers_share_the_reading() {
    let (channel, mut guest) = pair();
    let callers: Vec<_> = (0..8)
        .map(|thread| {
            let channel = channel.clone();
            std::thread::spawn(move || {
                for round in 0..50 {
                    let id = format!("{thread}-{round}");
                    let until = Instant::now() + super::fake_guest::PATIENCE;
                    let output = channel.dispatch(dispatch(&id), LIMIT, until).unwrap();
                    assert_eq!(output.stdout, id.as_bytes());
                }
            })
        })
        .collect();
    for _ in 0..8 * 50 {
        let id = guest.receive()["command_id"].as_str().unwrap().to_owned();
        guest.finish(&id, &id);
    }
    for caller in callers {
        caller.join().unwrap();
    }
    assert_eq!(channel.failure(), None);
}

#[test]
fn an_id_in_flight_is_refused_and_free_again_afterwards() {
    let (channel, mut guest) = pair();
    let first = spawn_command(&channel, "a");
    guest.receive();
    let soon = Instant::now() + super::fake_guest::PATIENCE;
    let second = channel.dispatch(dispatch("a"), LIMIT, soon).unwrap_err().error;
    assert_eq!(second, ChannelError::DuplicateRequest { id: "a".into() });
    let third = channel.query(query("a"), soon).unwrap_err();
    assert_eq!(third.code(), "SANDBOX_VSOCK_DUPLICATE_REQUEST");
    guest.finish("a", "");
    first.join().unwrap().unwrap();
    let again = spawn_command(&channel, "a");
    guest.receive();
    guest.finish("a", "");
    again.join().unwrap().unwrap();
}

#[test]
fn replies_without_a_request_are_counted_and_harmless() {
    let (channel, mut guest) = pair();
    guest.send(&response("unknown"));
    guest.finish("unknown", "");
    guest.send(&json!({"type": "ErrorEvent", "code": "TOOL_BUSY", "message": "m",
                       "request_id": "unknown"}));
    let caller = spawn_command(&channel, "a");
    guest.receive();
    guest.finish("a", "x");
    assert_eq!(caller.join().unwrap().unwrap().stdout, b"x");
    assert_eq!(channel.counters().late_arrivals, 5);
}

#[test]
fn a_caller_that_gives_up_takes_its_partial_output_and_leaves_the_channel_usable() {
    let (channel, mut guest) = pair();
    for message in &super::fake_guest::script("a", "par")[..2] {
        guest.send(message);
    }
    let soon = Instant::now() + Duration::from_millis(50);
    let failure = channel.dispatch(dispatch("a"), LIMIT, soon).unwrap_err();
    assert_eq!(failure.error, ChannelError::TimedOut { id: "a".into() });
    assert_eq!(failure.partial.stdout, b"par");
    guest.receive();
    guest.finish("a", "late");
    let caller = spawn_command(&channel, "b");
    guest.receive();
    guest.finish("b", "x");
    assert_eq!(caller.join().unwrap().unwrap().stdout, b"x");
    assert_eq!(channel.counters().late_arrivals, 4);
}

#[test]
fn a_reader_that_gives_up_hands_over_to_another_caller() {
    let (channel, mut guest) = pair();
    let leaver = std::thread::spawn({
        let channel = channel.clone();
        move || {
            let soon = Instant::now() + Duration::from_millis(100);
            channel.dispatch(dispatch("leaver"), LIMIT, soon).unwrap_err().error
        }
    });
    assert_eq!(guest.receive()["command_id"], "leaver");
    let stayer = spawn_command(&channel, "stayer");
    guest.receive();
    assert_eq!(leaver.join().unwrap().code(), "SANDBOX_TOOL_TIMEOUT");
    guest.finish("stayer", "x");
    assert_eq!(stayer.join().unwrap().unwrap().stdout, b"x");
}

#[test]
fn the_wrong_kind_of_reply_fails_its_request_only() {
    let (channel, mut guest) = pair();
    let command = spawn_command(&channel, "a");
    let asker = spawn_query(&channel, "q");
    guest.receive();
    guest.receive();
    guest.send(&response("a"));
    guest.finish("q", "");
    assert_eq!(error_of(command).code(), "SANDBOX_VSOCK_PROTOCOL_ERROR");
    assert_eq!(asker.join().unwrap().unwrap_err().code(), "SANDBOX_VSOCK_PROTOCOL_ERROR");
    let caller = spawn_command(&channel, "b");
    guest.receive();
    guest.finish("b", "");
    caller.join().unwrap().unwrap();
}

#[test]
fn an_answer_to_another_question_is_the_wrong_kind() {
    let (channel, mut guest) = pair();
    let asker = spawn_query(&channel, "q");
    guest.receive();
    let mut answer = response("q");
    answer["query_kind"] = json!("MemUsage");
    answer["result"] = json!({"bytes_used": 1, "bytes_total": 2});
    guest.send(&answer);
    assert_eq!(asker.join().unwrap().unwrap_err().code(), "SANDBOX_VSOCK_PROTOCOL_ERROR");
}

#[test]
fn an_object_that_is_no_message_fails_the_request_it_names() {
    for odd in [
        json!({"type": "ToolResult", "command_id": "a"}),
        json!({"type": "Surprise", "command_id": "a"}),
        json!({"command_id": "a"}),
        json!({"type": "ErrorEvent", "request_id": "a", "command_id": "other"}),
    ] {
        let (channel, mut guest) = pair();
        let caller = spawn_command(&channel, "a");
        guest.receive();
        guest.send(&odd);
        assert_eq!(error_of(caller).code(), "SANDBOX_VSOCK_PROTOCOL_ERROR", "{odd}");
        assert_eq!(channel.failure(), None);
    }
}

#[test]
fn a_refusal_reaches_its_caller_with_the_guests_words() {
    let (channel, mut guest) = pair();
    let caller = spawn_command(&channel, "a");
    guest.receive();
    guest.send(&json!({"type": "ErrorEvent", "code": "TOOL_BUSY", "message": "one at a time",
                       "request_id": "a"}));
    let error = error_of(caller);
    assert_eq!(error.code(), "SANDBOX_NOT_AVAILABLE");
    assert!(error.to_string().contains("one at a time"), "{error}");
    assert_eq!(channel.failure(), None);
}

#[test]
fn an_error_about_the_connection_itself_ends_it() {
    let (channel, mut guest) = pair();
    let caller = spawn_command(&channel, "a");
    guest.receive();
    guest.send(&json!({"type": "ErrorEvent", "code": "FRAME_MALFORMED", "message": "m"}));
    assert_eq!(error_of(caller).code(), "SANDBOX_VSOCK_PROTOCOL_ERROR");
    assert_eq!(channel.failure().unwrap().code(), "SANDBOX_VSOCK_PROTOCOL_ERROR");
}
