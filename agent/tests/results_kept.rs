//! Results outlive a disk that takes nothing, and a process that ends before they are journalled.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod commands_rig;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brainstorm_agent::commands::{Answer, Caller, Commands, Owed, Undelivered};
use brainstorm_agent::store::{Journal, NewCommand};
use futures_util::future::BoxFuture;
use protocol::Timestamp;
use serde_json::Value;

use commands_rig::{NoMachines, SESSION, commands, envelope};

const SOON: Duration = Duration::from_secs(30);

/// A caller that keeps results, and reads them or not.
#[derive(Default)]
struct Reader {
    reads: bool,
    results: Mutex<Vec<String>>,
}

impl Caller for Reader {
    fn session_id(&self) -> &str {
        SESSION
    }

    fn answer(&self, _answer: Answer) -> BoxFuture<'_, Result<(), Undelivered>> {
        Box::pin(async { Ok(()) })
    }

    fn deliver<'a>(&'a self, owed: &'a mut Owed<'_>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.results.lock().unwrap().push(owed.text().to_owned());
            owed.written();
            if self.reads {
                owed.read().await;
            }
        })
    }
}

/// Waits until it is so.
async fn until(mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(SOON, waited).await.unwrap();
}

fn reserved(dir: &Path) -> u64 {
    std::fs::metadata(dir.join("journal.reserve")).unwrap().len()
}

/// A command whose result comes while the journal cannot grow.
async fn with_a_full_journal(dir: &Path, reads: bool) -> (Arc<Commands>, Arc<Reader>) {
    let message = "long ".repeat(4000);
    let executor = Arc::new(NoMachines { message, ..NoMachines::default() });
    let commands = commands(dir, &executor).await;
    commands.journal().set_full(true).await.unwrap();
    let reader = Arc::new(Reader { reads, ..Reader::default() });
    commands.submit(Arc::clone(&reader) as Arc<dyn Caller>, envelope("echo"), Instant::now()).await;
    until(|| !reader.results.lock().unwrap().is_empty()).await;
    (commands, reader)
}

#[tokio::test]
async fn a_result_that_the_disk_does_not_take_is_delivered_and_journalled_when_it_does() {
    for reads in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (commands, reader) = with_a_full_journal(dir.path(), reads).await;
        let counts = commands.journal().counts();
        assert_eq!(counts.result_ready + counts.sent, 0, "{counts:?}");
        assert_eq!(commands.in_flight(), 1, "it is answered for");
        assert_eq!(reserved(dir.path()), 0, "its space was given to the disk");
        assert!(commands.owed(None, 10).await.unwrap().is_empty());

        commands.journal().set_full(false).await.unwrap();
        until(|| commands.in_flight() == 0).await;
        commands.drain(SOON).await;
        let counts = commands.journal().counts();
        assert_eq!((counts.sent, counts.result_ready), (u64::from(reads), u64::from(!reads)));
        let results = reader.results.lock().unwrap();
        assert!(results.iter().all(|result| *result == results[0]));
        assert_eq!(results.len() == 1, reads, "what was read is not delivered again");
    }
}

#[tokio::test]
async fn space_for_a_result_is_kept_from_when_its_command_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let commands = commands(dir.path(), &Arc::default()).await;
    assert_eq!(reserved(dir.path()), 0);
    let reader = Arc::new(Reader { reads: true, ..Reader::default() });
    commands.submit(reader as Arc<dyn Caller>, envelope("echo"), Instant::now()).await;
    assert!(reserved(dir.path()) >= 64 << 10, "{}", reserved(dir.path()));
}

/// The state of a process that ended after a command's evidence was written and before its result was
/// journalled, with that evidence changed by `change`. Gives what the next process owes.
async fn recovered(change: impl FnOnce(&mut Value)) -> (String, Vec<String>) {
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = commands(before.path(), &Arc::default()).await;
    let reader = Arc::new(Reader { reads: true, ..Reader::default() });
    first.submit(Arc::clone(&reader) as Arc<dyn Caller>, envelope("echo"), Instant::now()).await;
    first.drain(SOON).await;
    let result = reader.results.lock().unwrap().remove(0);
    let id =
        serde_json::from_str::<Value>(&result).unwrap()["command_id"].as_str().unwrap().to_owned();

    let name = format!("evidence/{id}.json");
    let evidence = std::fs::read(before.path().join(&name)).unwrap();
    let mut evidence: Value = serde_json::from_slice(&evidence).unwrap();
    change(&mut evidence);
    std::fs::create_dir_all(after.path().join("evidence")).unwrap();
    std::fs::write(after.path().join(&name), evidence.to_string()).unwrap();
    let journal = Journal::open(&after.path().join("journal.db")).unwrap();
    let command = NewCommand {
        command_id: id,
        tenant_id: "local".into(),
        tool: "echo".into(),
        correlation_id: "c".into(),
        operator_id: "alice".into(),
        accepted_at: Timestamp::now(),
    };
    journal.accept(command).await.unwrap();
    drop(journal);

    let next = commands(after.path(), &Arc::default()).await;
    let owed = next.owed(None, 10).await.unwrap();
    (result, owed.iter().map(|owed| owed.text().to_owned()).collect())
}

#[tokio::test]
async fn a_result_that_only_its_evidence_holds_is_sent_after_a_restart() {
    let (result, owed) = recovered(|_| ()).await;
    let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(owed.iter().map(|owed| value(owed)).collect::<Vec<_>>(), [value(&result)]);
}

#[tokio::test]
async fn evidence_that_does_not_fit_its_result_is_not_sent() {
    let changes: [fn(&mut Value); 4] = [
        |evidence| evidence["result"]["evidence_hash"] = "sha256:00".into(),
        |evidence| evidence["result"]["endpoint_id"] = "other".into(),
        |evidence| evidence["result"]["command_id"] = SESSION.into(),
        |evidence| evidence["result"] = Value::Null,
    ];
    for change in changes {
        let (_, owed) = recovered(change).await;
        assert_eq!(owed.len(), 1);
        assert!(owed[0].contains("it was not run"), "{}", owed[0]);
    }
}
