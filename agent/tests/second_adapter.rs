//! A second way into the agent, beside the relay: an adapter of a few dozen lines over the public
//! interface of `commands`, with no relay, no socket and no machine.
#![allow(clippy::unwrap_used, reason = "a test")]

mod commands_rig;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brainstorm_agent::commands::{Answer, Caller, Commands, Owed, Undelivered};
use futures_util::future::BoxFuture;
use serde_json::Value;

use commands_rig::{NoMachines, SESSION, commands, envelope};

/// The adapter: it keeps what it is told, and reads every result it can.
#[derive(Default)]
struct Letterbox {
    told: Mutex<Vec<Value>>,
    /// No answer can be written.
    is_shut: bool,
    /// Results are written, but never read.
    is_full: bool,
}

impl Letterbox {
    fn put(&self, text: &str) -> Result<(), Undelivered> {
        if self.is_shut {
            return Err(Undelivered { reason: "the letterbox is shut".to_owned() });
        }
        self.told.lock().unwrap().push(serde_json::from_str(text).unwrap());
        Ok(())
    }

    fn types(&self) -> Vec<String> {
        let told = self.told.lock().unwrap();
        told.iter().map(|answer| answer["type"].as_str().unwrap().to_owned()).collect()
    }
}

impl Caller for Letterbox {
    fn session_id(&self) -> &str {
        SESSION
    }

    fn answer(&self, answer: Answer) -> BoxFuture<'_, Result<(), Undelivered>> {
        Box::pin(async move { self.put(&answer.to_text()) })
    }

    fn deliver<'a>(&'a self, owed: &'a mut Owed<'_>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if self.put(owed.text()).is_ok() {
                owed.written();
                if !self.is_full {
                    owed.read().await;
                }
            }
        })
    }
}

/// Submits an envelope and waits until the command has ended.
async fn submit(commands: &Arc<Commands>, caller: Letterbox, text: String) -> Arc<Letterbox> {
    let caller = Arc::new(caller);
    commands.submit(Arc::clone(&caller) as Arc<dyn Caller>, text, Instant::now()).await;
    while commands.in_flight() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    caller
}

#[tokio::test]
async fn a_signed_envelope_is_acknowledged_run_and_answered() {
    let dir = tempfile::tempdir().unwrap();
    let executor = Arc::new(NoMachines::default());
    let commands = commands(dir.path(), &executor).await;
    let text = envelope("echo");
    let caller = submit(&commands, Letterbox::default(), text.clone()).await;
    commands.drain(Duration::from_secs(10)).await;

    assert_eq!(caller.types(), ["CommandAck", "ProgressEvent", "CommandResult"]);
    assert_eq!(executor.ran.load(Ordering::SeqCst), 1);
    let result = caller.told.lock().unwrap().pop().unwrap();
    assert_eq!(result["error"]["code"], "SANDBOX_VSOCK_CLOSED");
    assert_eq!(result["session_id"], SESSION);
    assert_eq!(commands.owed(None, 10).await.unwrap().len(), 0, "it was read");

    // Its nonce is spent.
    let again = submit(&commands, Letterbox::default(), text).await;
    assert_eq!(again.types(), ["ErrorEvent"]);
    assert_eq!(executor.ran.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_command_whose_acknowledgement_is_not_written_does_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let executor = Arc::new(NoMachines::default());
    let commands = commands(dir.path(), &executor).await;
    let shut = Letterbox { is_shut: true, ..Letterbox::default() };
    let caller = submit(&commands, shut, envelope("echo")).await;
    commands.drain(Duration::from_secs(10)).await;

    assert!(caller.types().is_empty());
    assert_eq!(executor.ran.load(Ordering::SeqCst), 0);
    let owed = commands.owed(None, 10).await.unwrap();
    assert_eq!(owed.len(), 1);
    assert!(owed[0].text().contains("it was not run"), "{}", owed[0].text());
}

#[tokio::test]
async fn a_result_that_was_written_but_not_read_stays_owed_in_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let executor = Arc::new(NoMachines::default());
    let first = commands(dir.path(), &executor).await;
    let full = Letterbox { is_full: true, ..Letterbox::default() };
    let caller = submit(&first, full, envelope("echo")).await;
    first.drain(Duration::from_secs(10)).await;
    assert_eq!(caller.types(), ["CommandAck", "ProgressEvent", "CommandResult"]);
    drop(first);

    let second = commands(dir.path(), &executor).await;
    let mut owed = second.owed(None, 10).await.unwrap();
    assert_eq!(owed.len(), 1);
    let result: Value = serde_json::from_str(owed[0].text()).unwrap();
    assert_eq!(result["type"], "CommandResult");
    assert!(owed[0].read().await);
    assert_eq!(second.owed(None, 10).await.unwrap().len(), 0);
    assert_eq!(executor.ran.load(Ordering::SeqCst), 1, "it is reported, and not run again");
}

#[tokio::test]
async fn an_envelope_that_is_refused_is_answered_by_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let executor = Arc::new(NoMachines::default());
    let commands = commands(dir.path(), &executor).await;
    for (text, code) in [
        (envelope("nonexistent"), "ENDPOINT_TOOL_NOT_REGISTERED"),
        (envelope("echo").replace("alice", "mallory"), "ENDPOINT_SIGNATURE_INVALID"),
    ] {
        let caller = submit(&commands, Letterbox::default(), text).await;
        let told = caller.told.lock().unwrap();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0]["type"], "ErrorEvent");
        assert_eq!(told[0]["code"], code);
    }
    assert_eq!(executor.ran.load(Ordering::SeqCst), 0);
}
