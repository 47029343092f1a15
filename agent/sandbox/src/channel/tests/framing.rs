//! Bytes in whatever pieces, and streams that break.

use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::thread::sleep;
use std::time::{Duration, Instant};

use guest::framing::MAX_FRAME_BYTES;
use proptest::prelude::*;
use serde_json::json;

use super::super::{ChannelError, STALL_LIMIT};
use super::fake_guest::{
    LIMIT, PATIENCE, dispatch, error_of, frame, pair, pair_with, response, script, spawn_command,
    spawn_query,
};

fn bytes_of(id: &str, stdout: &str) -> Vec<u8> {
    script(id, stdout).iter().flat_map(|m| frame(m.to_string().as_bytes())).collect()
}

#[test]
fn replies_may_come_byte_by_byte() {
    let (channel, mut guest) = pair();
    let caller = spawn_command(&channel, "a");
    guest.receive();
    for byte in bytes_of("a", "hello") {
        guest.send_bytes(&[byte]);
    }
    assert_eq!(caller.join().unwrap().unwrap().stdout, b"hello");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn replies_may_come_in_any_pieces(mut cuts in prop::collection::vec(0_usize..700, 0..8)) {
        let (channel, mut guest) = pair();
        let first = spawn_command(&channel, "a");
        let second = spawn_command(&channel, "b");
        guest.receive();
        guest.receive();
        let bytes = [bytes_of("b", "B"), bytes_of("a", "A")].concat();
        cuts.sort_unstable();
        let mut rest = bytes.as_slice();
        let mut at = 0;
        for cut in cuts {
            let (piece, tail) = rest.split_at((cut - at).min(rest.len()));
            guest.send_bytes(piece);
            rest = tail;
            at = cut;
        }
        guest.send_bytes(rest);
        prop_assert_eq!(first.join().unwrap().unwrap().stdout, b"A");
        prop_assert_eq!(second.join().unwrap().unwrap().stdout, b"B");
    }
}

#[test]
fn garbage_is_dropped_and_the_connection_goes_on() {
    let (channel, mut guest) = pair();
    let caller = spawn_command(&channel, "a");
    guest.receive();
    let garbage: [&[u8]; 6] =
        [b"{", b"[1]", b"\"a\"", b"null", b"\xff\xfe", b"{\"type\":\"Surprise\"}"];
    for body in garbage {
        guest.send_bytes(&frame(body));
    }
    guest.finish("a", "x");
    assert_eq!(caller.join().unwrap().unwrap().stdout, b"x");
    assert_eq!(channel.counters().dropped_frames, 6);
}

#[test]
fn a_frame_of_no_bytes_ends_the_connection() {
    let (channel, mut guest) = pair();
    let caller = spawn_command(&channel, "a");
    guest.receive();
    guest.send_bytes(&frame(b""));
    assert_eq!(error_of(caller).code(), "SANDBOX_FRAME_MALFORMED");
    assert_eq!(channel.failure(), Some(ChannelError::Malformed));
}

#[test]
fn a_frame_of_the_largest_size_is_read_and_a_larger_one_ends_the_connection() {
    let (channel, mut guest) = pair();
    let asker = spawn_query(&channel, "q");
    guest.receive();
    guest.send_bytes(&frame(&vec![b' '; MAX_FRAME_BYTES]));
    guest.send(&response("q"));
    asker.join().unwrap().unwrap();
    assert_eq!(channel.counters().dropped_frames, 1);

    let caller = spawn_command(&channel, "a");
    guest.receive();
    let announced = MAX_FRAME_BYTES + 1;
    guest.send_bytes(&u32::try_from(announced).unwrap().to_be_bytes());
    let expected = ChannelError::InboundTooLarge { announced, limit: MAX_FRAME_BYTES };
    assert_eq!(error_of(caller), expected);
    assert_eq!(channel.failure(), Some(expected));
    let closed = guest.stream.read(&mut [0]);
    assert!(matches!(closed, Ok(0)), "{closed:?}");
}

#[test]
fn a_request_over_the_limit_is_not_sent() {
    let (channel, mut guest) = pair();
    let mut large = dispatch("large");
    large.params.insert("message".into(), "x".repeat(MAX_FRAME_BYTES).into());
    let error = channel.dispatch(large, LIMIT, Instant::now() + PATIENCE).unwrap_err().error;
    assert_eq!(error.code(), "SANDBOX_VSOCK_FRAME_TOO_LARGE");
    let caller = spawn_command(&channel, "a");
    assert_eq!(guest.receive()["command_id"], "a");
    guest.finish("a", "");
    caller.join().unwrap().unwrap();
}

#[test]
fn the_guest_may_not_pause_for_ever_inside_a_frame() {
    for pieces in [&[0_u8][..], &[0, 0, 0, 9, b'{']] {
        let limit = Duration::from_millis(50);
        let (channel, mut guest) = pair_with(limit);
        let caller = spawn_command(&channel, "a");
        guest.receive();
        guest.send_bytes(pieces);
        let expected = ChannelError::Stalled { limit };
        assert_eq!(error_of(caller), expected);
        assert_eq!(expected.code(), "SANDBOX_VSOCK_PARTIAL_FRAME_TIMEOUT");
        assert_eq!(channel.failure(), Some(expected));
    }
    assert_eq!(STALL_LIMIT, Duration::from_secs(30));
}

#[test]
fn a_slow_guest_that_goes_on_is_waited_for() {
    let limit = Duration::from_millis(1200);
    let (channel, mut guest) = pair_with(limit);
    let asker = spawn_query(&channel, "q");
    guest.receive();
    let begun = Instant::now();
    let bytes = frame(response("q").to_string().as_bytes());
    let (slow, rest) = bytes.split_at(24);
    for byte in slow {
        guest.send_bytes(&[*byte]);
        sleep(Duration::from_millis(60));
    }
    guest.send_bytes(rest);
    asker.join().unwrap().unwrap();
    assert!(begun.elapsed() > limit, "the test was too quick to tell");
}

#[test]
fn silence_between_frames_is_no_stall() {
    let (channel, mut guest) = pair_with(Duration::from_millis(20));
    let asker = spawn_query(&channel, "q");
    guest.receive();
    sleep(Duration::from_millis(80));
    guest.send(&response("q"));
    asker.join().unwrap().unwrap();
}

#[test]
fn a_pause_that_the_host_slept_through_is_forgiven_when_the_rest_is_there() {
    let (channel, mut guest) = pair_with(Duration::from_millis(30));
    let bytes = frame(response("early").to_string().as_bytes());
    let (head, tail) = bytes.split_at(9);
    guest.send_bytes(head);
    assert_eq!(channel.failure(), None);
    guest.send_bytes(tail);
    sleep(Duration::from_millis(60));
    let asker = spawn_query(&channel, "q");
    guest.receive();
    guest.send(&response("q"));
    asker.join().unwrap().unwrap();
    assert_eq!(channel.counters().late_arrivals, 1);
}

#[test]
fn an_end_between_frames_is_a_closed_connection_for_everybody_and_for_good() {
    let (channel, mut guest) = pair();
    let command = spawn_command(&channel, "a");
    let asker = spawn_query(&channel, "q");
    guest.receive();
    guest.receive();
    drop(guest);
    assert_eq!(error_of(command).code(), "SANDBOX_VSOCK_CLOSED");
    assert_eq!(asker.join().unwrap().unwrap_err().code(), "SANDBOX_VSOCK_CLOSED");
    let later = channel.dispatch(dispatch("b"), LIMIT, Instant::now() + PATIENCE);
    assert_eq!(Some(later.unwrap_err().error), channel.failure());
}

#[test]
fn an_end_inside_a_frame_is_malformed() {
    let (channel, mut guest) = pair();
    let caller = spawn_command(&channel, "a");
    guest.receive();
    guest.send_bytes(&[0, 0, 0, 9, b'{']);
    guest.stream.shutdown(Shutdown::Write).unwrap();
    let error = error_of(caller);
    assert_eq!(error, ChannelError::CutShort);
    assert_eq!(error.code(), "SANDBOX_FRAME_MALFORMED");
}

#[test]
fn an_end_while_no_call_waits_is_noticed() {
    let (channel, guest) = pair();
    assert_eq!(channel.failure(), None);
    drop(guest);
    assert_eq!(channel.failure().unwrap().code(), "SANDBOX_VSOCK_CLOSED");
}

#[test]
fn a_reply_sent_before_the_end_still_counts() {
    let (channel, mut guest) = pair();
    let caller = spawn_command(&channel, "a");
    guest.receive();
    guest.finish("a", "x");
    drop(guest);
    assert_eq!(caller.join().unwrap().unwrap().stdout, b"x");
    assert_eq!(channel.failure().unwrap().code(), "SANDBOX_VSOCK_CLOSED");
}

#[test]
fn a_guest_that_takes_no_bytes_does_not_hold_its_caller() {
    let (channel, guest) = pair();
    let mut large = dispatch("large");
    large.params.insert("message".into(), "x".repeat(8 << 20).into());
    let soon = Instant::now() + Duration::from_millis(100);
    let error = channel.dispatch(large, LIMIT, soon).unwrap_err().error;
    assert!(matches!(error, ChannelError::WriteStalled { sent } if sent > 0), "{error:?}");
    assert_eq!(channel.failure(), Some(error));
    drop(guest);
}

#[test]
fn a_guest_that_never_pauses_does_not_hold_its_caller() {
    let (channel, mut guest) = pair();
    let flood = std::thread::spawn(move || {
        guest.receive();
        let stray = frame(json!({"type": "Surprise"}).to_string().as_bytes()).repeat(100);
        loop {
            if let Err(e) = std::io::Write::write_all(&mut guest.stream, &stray) {
                return e.kind();
            }
        }
    });
    let soon = Instant::now() + Duration::from_millis(50);
    let error = channel.dispatch(dispatch("a"), LIMIT, soon).unwrap_err().error;
    assert_eq!(error.code(), "SANDBOX_TOOL_TIMEOUT");
    assert_eq!(channel.failure(), None);
    drop(channel);
    assert!(matches!(flood.join().unwrap(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset));
}
