//! Each way to break the protocol, by name.

use std::io::Error;
use std::time::{Duration, Instant};

use guest::evidence::Chain;
use guest::wire::{GuestMessage, ToolDispatch};
use serde_json::{Value, json};

use super::line::Line;
use super::{acknowledge, chunk, result};

const LIMIT: u32 = 16 << 20;
/// Longer than the deadlines of these commands.
const LONG: Duration = Duration::from_secs(3600);
/// Deep enough for a recursive reader to run out of stack.
const DEEP: usize = 1 << 20;

/// Answers a command as its `mode` says.
pub fn run(line: &mut Line, dispatch: &ToolDispatch, port: u32) -> std::io::Result<()> {
    let mode = dispatch.params.get("mode").and_then(Value::as_str).unwrap_or_default();
    let count = dispatch.params.get("count").and_then(Value::as_u64).unwrap_or(1000);
    let id = dispatch.command_id.as_str();
    match mode {
        "control" => finish(line, dispatch),
        "length-zero" => line.raw(&[0; 4]),
        "length-over" => line.raw(&(LIMIT + 1).to_be_bytes()),
        "length-max" => line.raw(&u32::MAX.to_be_bytes()),
        // Held back: what came must not be taken for a message.
        "half-header" => line.raw(&[0, 0]).map(|()| std::thread::sleep(LONG)),
        "half-frame" => {
            line.raw(&LIMIT.to_be_bytes())?;
            line.raw(b"{\"type\":\"ToolResult\"").map(|()| std::thread::sleep(LONG))
        }
        "end-in-frame" => {
            line.raw(&100_u32.to_be_bytes())?;
            line.raw(b"{\"type\"")?;
            hang_up()
        }
        "end" => hang_up(),
        "drip" => drip(line, dispatch),
        "deep-arrays" => line.frame("[".repeat(DEEP).as_bytes()),
        "deep-objects" => line.frame("{\"a\":".repeat(DEEP).as_bytes()),
        "deep-in-result" => {
            let text = format!(
                "{{\"type\":\"ToolResult\",\"command_id\":{},\"exit_code\":{}0",
                json!(id),
                "[".repeat(DEEP)
            );
            line.frame(text.as_bytes())
        }
        "not-json" => line.frame(b"\x00\xff\xfe{{{"),
        "not-utf8" => line.frame(b"{\"type\":\"\xff\xff\"}"),
        "not-a-message" => line.frame(b"[1,2,3]").and_then(|()| finish(line, dispatch)),
        "duplicate-keys" => {
            let text = format!(
                "{{\"type\":\"FreshnessAck\",\"command_id\":{0},\"command_id\":{0}}}",
                json!(id)
            );
            line.frame(text.as_bytes())
        }
        "other-id" => {
            let mut other = dispatch.clone();
            other.command_id = format!("{id}-other");
            line.say(&acknowledge(dispatch))?;
            result(&other, "for another").iter().try_for_each(|message| line.say(message))
        }
        "host-message" => line.frame(
            json!({"type": "ResetSignal", "reset_id": "x", "reason": "on_idle"})
                .to_string()
                .as_bytes(),
        ),
        "no-ack" => result(dispatch, "x").iter().try_for_each(|message| line.say(message)),
        "ack-twice" => {
            line.say(&acknowledge(dispatch))?;
            finish(line, dispatch)
        }
        "ack-of-other-entropy" => {
            let mut other = dispatch.clone();
            other.freshness.entropy = guest::wire::Freshness::new(0, &[7; 32]).entropy;
            finish(line, &other)
        }
        "result-twice" => {
            finish(line, dispatch)?;
            finish(line, dispatch)
        }
        "evidence-gap" | "evidence-repeats" | "evidence-forged" | "evidence-missing" => {
            broken_evidence(line, dispatch, mode)
        }
        "late" => {
            let beyond = u64::try_from(dispatch.deadline_ms).unwrap_or_default() + 2000;
            std::thread::sleep(Duration::from_millis(beyond));
            finish(line, dispatch)
        }
        "silent" => {
            std::thread::sleep(LONG);
            Ok(())
        }
        "tiny-frames" => tiny_frames(line, dispatch, count),
        "chunk-flood" => chunk_flood(line, dispatch, count),
        "huge-result" => huge_result(line, dispatch),
        "connection-flood" => connection_flood(line, dispatch, port, count),
        _ => Err(Error::other("no such mode")),
    }
}

fn finish(line: &mut Line, dispatch: &ToolDispatch) -> std::io::Result<()> {
    line.say(&acknowledge(dispatch))?;
    result(dispatch, "well behaved\n").iter().try_for_each(|message| line.say(message))
}

/// The caller lets go of the connection.
fn hang_up() -> std::io::Result<()> {
    Err(Error::other("on purpose"))
}

/// One byte of a good answer at a time, never long enough silent to be noticed by that alone.
fn drip(line: &mut Line, dispatch: &ToolDispatch) -> std::io::Result<()> {
    let frame = guest::framing::encode_frame(&acknowledge(dispatch)).map_err(Error::other)?;
    for byte in frame.iter().cycle() {
        line.raw(&[*byte])?;
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn broken_evidence(line: &mut Line, dispatch: &ToolDispatch, how: &str) -> std::io::Result<()> {
    line.say(&acknowledge(dispatch))?;
    let [first, last, result] = result(dispatch, "x");
    match how {
        "evidence-gap" => line.say(&last)?,
        "evidence-repeats" => {
            line.say(&first)?;
            line.say(&first)?;
        }
        "evidence-forged" => {
            let mut chain = Chain::new(&dispatch.command_id);
            line.say(&chunk(&mut chain, &dispatch.command_id, b"\x01y", false))?;
            line.say(&last)?;
        }
        _ => {}
    }
    line.say(&result)
}

/// Frames that each cost the host more than they cost the guest.
fn tiny_frames(line: &mut Line, dispatch: &ToolDispatch, count: u64) -> std::io::Result<()> {
    let frame = [0, 0, 0, 2, b'{', b'}'];
    let many = frame.repeat(4096);
    for _ in 0..count.div_ceil(4096) {
        line.raw(&many)?;
    }
    finish(line, dispatch)
}

/// Output without end, for as long as the host listens.
fn chunk_flood(line: &mut Line, dispatch: &ToolDispatch, count: u64) -> std::io::Result<()> {
    line.say(&acknowledge(dispatch))?;
    let mut chain = Chain::new(&dispatch.command_id);
    let mut data = vec![b'x'; 512 << 10];
    if let Some(tag) = data.first_mut() {
        *tag = guest::output::STDOUT_TAG;
    }
    let begun = Instant::now();
    for _ in 0..count {
        line.say(&chunk(&mut chain, &dispatch.command_id, &data, false))?;
        if begun.elapsed() > LONG {
            break;
        }
    }
    let last: GuestMessage = chunk(&mut chain, &dispatch.command_id, &[], true);
    line.say(&last)
}

/// A result as large as a frame may be, which is not what the evidence says.
fn huge_result(line: &mut Line, dispatch: &ToolDispatch) -> std::io::Result<()> {
    line.say(&acknowledge(dispatch))?;
    let [first, last, result] = result(dispatch, "x");
    line.say(&first)?;
    line.say(&last)?;
    let GuestMessage::ToolResult(mut result) = result else { return hang_up() };
    result.stdout = "y".repeat((15 << 20) + (512 << 10));
    line.say(&GuestMessage::ToolResult(result))
}

/// Connections to the host where it listens or not, as fast as they can be made.
fn connection_flood(
    line: &mut Line,
    dispatch: &ToolDispatch,
    port: u32,
    count: u64,
) -> std::io::Result<()> {
    let mut kept = Vec::new();
    for number in 0..count {
        let to = if number % 2 == 0 { port } else { u32::try_from(number).unwrap_or_default() };
        if let Ok(line) = Line::to_host(to) {
            kept.push(line);
        }
    }
    finish(line, dispatch)
}
