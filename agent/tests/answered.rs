//! Every command is answered, whatever happens on its way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod commands_rig;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime};

use brainstorm_agent::commands::answers::{Alarm, AlarmListener};
use brainstorm_agent::commands::milestone::{Milestone, Observer};
use brainstorm_agent::commands::{Answer, Caller, Owed, Undelivered};
use futures_util::future::BoxFuture;
use sandbox::{Cause, ForensicDump, Incident};
use serde_json::Value;

use commands_rig::{NoMachines, SESSION, commands, envelope, observed_commands};

const SOON: Duration = Duration::from_secs(30);

/// A caller that keeps and reads all answers.
#[derive(Default)]
struct Reader(Mutex<Vec<Value>>);

impl Reader {
    fn told(&self, text: &str) {
        self.0.lock().unwrap().push(serde_json::from_str(text).unwrap());
    }

    fn types(&self) -> Vec<String> {
        let told = self.0.lock().unwrap();
        told.iter().map(|answer| answer["type"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits for an answer of that type.
    async fn has(&self, kind: &str) {
        let heard = async {
            while !self.types().iter().any(|told| told == kind) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(SOON, heard).await.unwrap();
    }
}

impl Caller for Reader {
    fn session_id(&self) -> &str {
        SESSION
    }

    fn answer(&self, answer: Answer) -> BoxFuture<'_, Result<(), Undelivered>> {
        Box::pin(async move {
            self.told(&answer.to_text());
            Ok(())
        })
    }

    fn deliver<'a>(&'a self, owed: &'a mut Owed<'_>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.told(owed.text());
            owed.written();
            owed.read().await;
        })
    }
}

#[tokio::test]
async fn a_command_that_would_be_acknowledged_too_late_is_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let executor = Arc::new(NoMachines::default());
    let commands = commands(dir.path(), &executor).await;
    let reader = Arc::new(Reader::default());
    // Its text was read that long ago, and waited for something since then.
    let received = Instant::now().checked_sub(Duration::from_secs(6)).unwrap();
    commands.submit(Arc::clone(&reader) as Arc<dyn Caller>, envelope("echo"), received).await;
    commands.drain(SOON).await;
    assert_eq!(reader.types().last().unwrap(), "ErrorEvent");
    let told = reader.0.lock().unwrap();
    assert!(told.last().unwrap()["message"].as_str().unwrap().contains("too late"), "{told:?}");
    assert_eq!(executor.ran.load(Ordering::SeqCst), 0);
}

/// Panics when a command comes so far.
struct Panics(Milestone);

impl Observer for Panics {
    fn reached(&self, _command_id: &str, milestone: Milestone) {
        assert!(milestone != self.0, "as told");
    }
}

#[tokio::test]
async fn a_command_in_whose_course_the_agent_panics_is_answered_once() {
    for (milestone, last) in [
        (Milestone::Acked, "ErrorEvent"),
        (Milestone::Executed, "ErrorEvent"),
        // By then the journal has the result.
        (Milestone::ResultReady, "CommandResult"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let observer = Box::new(Panics(milestone));
        let commands = observed_commands(dir.path(), &Arc::default(), observer).await;
        let reader = Arc::new(Reader::default());
        let caller = Arc::clone(&reader) as Arc<dyn Caller>;
        commands.submit(caller, envelope("echo"), Instant::now()).await;
        reader.has(last).await;
        commands.drain(SOON).await;
        let ends = reader.types();
        let ends =
            ends.iter().filter(|kind| ["ErrorEvent", "CommandResult"].contains(&kind.as_str()));
        assert_eq!(ends.count(), 1, "{milestone:?}");
        assert_eq!(commands.in_flight(), 0);
        assert_eq!(commands.journal().counts().sent, 1);
    }
}

/// Takes no alarm to its end.
#[derive(Default)]
struct Hangs(AtomicBool);

impl AlarmListener for Hangs {
    fn raise<'a>(&'a self, _alarm: &'a Alarm) -> BoxFuture<'a, ()> {
        self.0.store(true, Ordering::SeqCst);
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_listener_that_hangs_delays_no_result() {
    let dir = tempfile::tempdir().unwrap();
    let executor = Arc::new(NoMachines::default());
    executor.hold.store(true, Ordering::SeqCst);
    let commands = commands(dir.path(), &executor).await;
    let listener = Arc::new(Hangs::default());
    let listening: Arc<dyn AlarmListener> = listener.clone();
    commands.listen(Arc::downgrade(&listening) as Weak<dyn AlarmListener>);
    let reader = Arc::new(Reader::default());
    let caller = Arc::clone(&reader) as Arc<dyn Caller>;
    commands.submit(caller, envelope("echo"), Instant::now()).await;

    let incident = Incident {
        at: SystemTime::now(),
        command_id: None,
        cause: Cause::ResetFailed("as told".into()),
        dump: ForensicDump::default(),
    };
    commands.degraded().halt(&incident);
    let watcher = Arc::clone(&commands);
    tokio::spawn(async move { watcher.watch_incidents().await });
    let raised = async {
        while !listener.0.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(SOON, raised).await.unwrap();
    executor.hold.store(false, Ordering::SeqCst);
    reader.has("CommandResult").await;
}
