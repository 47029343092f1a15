//! What the relay is sent of results, through the adapter that serves it.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod commands_rig;

use std::sync::Arc;
use std::time::{Duration, Instant};

use brainstorm_agent::relay::link::loopback::LoopbackSession;
use brainstorm_agent::relay::{FrameBound, Handler, RelayAdapter};
use serde_json::Value;

use commands_rig::{NoMachines, SESSION, commands, envelope};

/// Longest wait for what must happen.
const SOON: Duration = Duration::from_secs(30);
const OTHER_SESSION: &str = "33333333-3333-4333-8333-333333333333";

/// The next frame of this type, as text.
async fn hear(relay: &mut LoopbackSession, kind: &str) -> String {
    loop {
        let text = tokio::time::timeout(SOON, relay.hear()).await.unwrap().unwrap();
        let frame: Value = serde_json::from_str(&text).unwrap();
        if frame["type"] == kind {
            return text;
        }
    }
}

/// Runs one command whose result is long, in a session that ends before the result is confirmed.
async fn owe_a_long_result(dir: &std::path::Path) -> String {
    let message = "long ".repeat(4000);
    let executor = Arc::new(NoMachines { message, ..NoMachines::default() });
    let commands = commands(dir, &executor).await;
    let adapter = RelayAdapter::new(Arc::clone(&commands));
    let mut relay = LoopbackSession::with(SESSION, FrameBound::default(), false);
    let session = relay.session().clone();
    adapter.connected(session.clone());
    adapter.frame(session.clone(), envelope("echo"), Instant::now()).await;
    let result = hear(&mut relay, "CommandResult").await;
    adapter.disconnected(&session);
    drop(relay);
    commands.drain(SOON).await;
    result
}

#[tokio::test]
async fn a_relay_that_takes_shorter_frames_gets_a_shorter_result_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = owe_a_long_result(dir.path()).await;
    assert!(first.len() > 20_000, "{}", first.len());
    let mut lengths = Vec::new();
    // The bound is in this process's memory; what was cut to it is in the journal.
    for bound in [FrameBound::new(4096), FrameBound::default()] {
        let commands = commands(dir.path(), &Arc::default()).await;
        let adapter = RelayAdapter::new(Arc::clone(&commands));
        let mut relay = LoopbackSession::with(OTHER_SESSION, bound, false);
        adapter.connected(relay.session().clone());
        let text = hear(&mut relay, "CommandResult").await;
        let frame: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&frame["resumed"], &frame["session_id"]),
            (&true.into(), &OTHER_SESSION.into())
        );
        let message = frame["error"]["message"].as_str().unwrap();
        assert!(message.contains(" bytes left out"), "{message}");
        assert!(message.lines().last().unwrap().starts_with("chains: {"), "{message}");
        lengths.push(text.len());
        drop((relay, adapter));
        commands.drain(SOON).await;
    }
    assert!(lengths.iter().all(|length| *length <= 4096), "{lengths:?}");
}
