use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use tempfile::TempDir;

use super::*;
use crate::store::testing::{child, child_directory, on_disk, several, single, tell_parent};

fn command(id: &str, at: i64) -> NewCommand {
    NewCommand {
        command_id: id.to_owned(),
        tenant_id: "tenant".to_owned(),
        tool: "echo".to_owned(),
        correlation_id: format!("correlation of {id}"),
        operator_id: "operator".to_owned(),
        accepted_at: Timestamp::from_millis(at),
    }
}

fn journal() -> (TempDir, Journal) {
    let directory = on_disk();
    let journal = Journal::open(&directory.path().join("journal.db")).unwrap();
    (directory, journal)
}

fn reopen(directory: &TempDir, journal: Journal) -> Journal {
    drop(journal);
    Journal::open(&directory.path().join("journal.db")).unwrap()
}

fn ids(entries: &[(i64, JournalEntry)]) -> Vec<&str> {
    entries.iter().map(|(_, entry)| entry.command.command_id.as_str()).collect()
}

#[test]
fn a_command_goes_through_its_states_and_survives_restarts() {
    let (directory, mut journal) = journal();
    single().block_on(async {
        journal.accept(command("a", 5)).await.unwrap();
        assert_eq!(journal.counts(), JournalCounts { accepted: 1, ..JournalCounts::default() });
        for (state, counts) in [
            (CommandState::Acked, JournalCounts { acked: 1, ..JournalCounts::default() }),
            (CommandState::Started, JournalCounts { started: 1, ..JournalCounts::default() }),
        ] {
            journal.note("a", state);
            journal = reopen(&directory, journal);
            assert_eq!(journal.counts(), counts);
            assert_eq!(journal.unfinished()[0].state, state);
        }
        journal.result_ready("a", "{\"a\":1}".to_owned()).await.unwrap();
        journal = reopen(&directory, journal);
        assert!(journal.unfinished().is_empty());
        let unsent = journal.unsent(None, 10).await.unwrap();
        let entry = JournalEntry {
            command: command("a", 5),
            state: CommandState::ResultReady,
            result_json: Some("{\"a\":1}".to_owned()),
        };
        assert_eq!(unsent, [(1, entry)]);
        journal.sent(vec!["a".to_owned()]).await.unwrap();
        journal = reopen(&directory, journal);
        assert_eq!(journal.unsent(None, 10).await.unwrap(), []);
        assert_eq!(journal.counts(), JournalCounts { sent: 1, ..JournalCounts::default() });
        assert_eq!(journal.find("a").await.unwrap().unwrap().state, CommandState::Sent);
        assert_eq!(journal.find("b").await.unwrap(), None);
    });
}

#[test]
fn a_command_id_is_accepted_once_in_whatever_state_it_is() {
    let (directory, mut journal) = journal();
    single().block_on(async {
        let duplicate = Err(JournalError::Duplicate {
            command_id: "a".to_owned(),
            accepted_at: Timestamp::from_millis(5),
        });
        journal.accept(command("a", 5)).await.unwrap();
        for step in 0..4 {
            assert_eq!(journal.accept(command("a", 6)).await, duplicate);
            journal = reopen(&directory, journal);
            assert_eq!(journal.accept(command("a", 7)).await, duplicate);
            match step {
                0 => journal.note("a", CommandState::Started),
                1 => journal.result_ready("a", "{}".to_owned()).await.unwrap(),
                _ => journal.sent(vec!["a".to_owned()]).await.unwrap(),
            }
        }
    });
}

#[test]
fn states_never_go_back_and_results_are_never_replaced() {
    let (_directory, journal) = journal();
    single().block_on(async {
        journal.accept(command("a", 5)).await.unwrap();
        journal.note("a", CommandState::Started);
        journal.note("a", CommandState::Acked);
        // Only a result makes a command ready, and only a result can be sent.
        journal.note("a", CommandState::Sent);
        journal.sent(vec!["a".to_owned(), "unknown".to_owned()]).await.unwrap();
        assert_eq!(journal.find("a").await.unwrap().unwrap().state, CommandState::Started);

        journal.result_ready("a", "1".to_owned()).await.unwrap();
        journal.note("a", CommandState::Started);
        for id in ["a", "unknown"] {
            let refused = journal.result_ready(id, "2".to_owned()).await;
            assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
        }
        let entry = journal.find("a").await.unwrap().unwrap();
        assert_eq!(entry.result_json.as_deref(), Some("1"));
        journal.sent(vec!["a".to_owned()]).await.unwrap();
        assert!(journal.result_ready("a", "3".to_owned()).await.is_err());
    });
}

#[test]
fn what_is_unfinished_is_of_an_earlier_process_and_oldest_first() {
    let (directory, journal) = journal();
    single().block_on(async {
        // The clock went back in between: the order is that of acceptance.
        for (id, at) in [("first", 9), ("second", 5), ("third", 7)] {
            journal.accept(command(id, at)).await.unwrap();
        }
        journal.result_ready("second", "{}".to_owned()).await.unwrap();
        let journal = reopen(&directory, journal);
        journal.accept(command("of this process", 10)).await.unwrap();
        let left = journal.unfinished().iter().map(|entry| entry.command.command_id.as_str());
        assert_eq!(left.collect::<Vec<_>>(), ["first", "third"]);
    });
}

#[test]
fn unsent_results_come_oldest_first_and_not_too_many_at_once() {
    let (_directory, journal) = journal();
    single().block_on(async {
        let long = "x".repeat(MAX_RESULT_BYTES);
        for id in ["a", "b", "c", "d", "e", "f"] {
            journal.accept(command(id, 0)).await.unwrap();
            journal.result_ready(id, long.clone()).await.unwrap();
        }
        assert_eq!(ids(&journal.unsent(None, 2).await.unwrap()), ["a", "b"]);
        assert_eq!(ids(&journal.unsent(None, 100).await.unwrap()), ["a", "b", "c", "d"]);
        let (second, _) = journal.unsent(None, 2).await.unwrap()[1];
        assert_eq!(ids(&journal.unsent(Some(second), 2).await.unwrap()), ["c", "d"]);
        journal.sent(vec!["a".to_owned(), "c".to_owned()]).await.unwrap();
        assert_eq!(ids(&journal.unsent(None, 100).await.unwrap()), ["b", "d", "e", "f"]);
        let one = journal
            .writer
            .call(|_, database| ledger::unsent(database, i64::MIN, 100, MAX_RESULT_BYTES - 1))
            .await
            .unwrap();
        assert_eq!(ids(&one), ["b"]);
    });
}

#[test]
fn a_result_that_is_too_long_is_refused_and_the_command_still_open() {
    let (_directory, journal) = journal();
    single().block_on(async {
        journal.accept(command("a", 0)).await.unwrap();
        let refused = journal.result_ready("a", "x".repeat(MAX_RESULT_BYTES + 1)).await;
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
        journal.result_ready("a", "short".to_owned()).await.unwrap();
    });
}

#[test]
fn only_old_sent_commands_are_pruned() {
    let (directory, journal) = journal();
    single().block_on(async {
        let accepted = (0..2500).map(|number| {
            let accepting = journal.accept(command(&number.to_string(), number));
            async { accepting.await.unwrap() }
        });
        join_all(accepted).await;
        let ids: Vec<_> = (0..2400).map(|number| number.to_string()).collect();
        let ready = ids.iter().map(|id| async {
            journal.result_ready(id, "{}".to_owned()).await.unwrap();
        });
        join_all(ready).await;
        journal.sent((0..2300).map(|number| number.to_string()).collect()).await.unwrap();
        assert_eq!(journal.prune(Timestamp::from_millis(2200)).await, Ok(2200));
        assert_eq!(journal.prune(Timestamp::from_millis(2200)).await, Ok(0));
        let counts = JournalCounts {
            accepted: 100,
            result_ready: 100,
            sent: 100,
            ..JournalCounts::default()
        };
        assert_eq!(journal.counts(), counts);
        assert_eq!(journal.find("2199").await.unwrap(), None);
        assert!(journal.find("2200").await.unwrap().is_some());
        assert_eq!(reopen(&directory, journal).counts(), counts);
    });
}

#[test]
fn a_command_that_did_not_reach_the_disk_is_not_accepted() {
    let (_directory, journal) = journal();
    single().block_on(async {
        journal.accept(command("before", 0)).await.unwrap();
        let limit = |pages: i64| {
            journal.writer.call(move |_, database| {
                database
                    .pragma_update_and_check(None, "max_page_count", pages, |row| row.get(0))
                    .map(|_: i64| ())
            })
        };
        limit(1).await.unwrap();
        let full = journal.result_ready("before", "x".repeat(100_000)).await;
        assert!(matches!(full, Err(StoreError::Full { .. })), "{full:?}");
        let mut long = command("long", 0);
        long.correlation_id = "x".repeat(100_000);
        let full = journal.accept(long.clone()).await;
        assert!(matches!(full, Err(JournalError::Store(StoreError::Full { .. }))), "{full:?}");
        assert_eq!(journal.counts(), JournalCounts { accepted: 1, ..JournalCounts::default() });
        limit(1_000_000).await.unwrap();
        journal.accept(long).await.unwrap();
        journal.result_ready("before", "x".repeat(100_000)).await.unwrap();
    });
}

#[test]
fn every_step_that_was_confirmed_is_there_after_kill_9() {
    if let Some(directory) = child_directory() {
        run_commands_until_killed(&directory);
    }
    let directory = on_disk();
    let mut steps = 0;
    for round in 0..10_u64 {
        let test = "every_step_that_was_confirmed_is_there_after_kill_9";
        let mut child = child(module_path!(), test, directory.path())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut confirmed: Vec<(String, CommandState)> = Vec::new();
        let mut read = |confirmed: &mut Vec<_>| {
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            let Some((step, id)) = line.strip_suffix('\n').and_then(|line| line.split_once(' '))
            else {
                return false;
            };
            let state = match step {
                "accepted" => CommandState::Accepted,
                "ready" => CommandState::ResultReady,
                "sent" => CommandState::Sent,
                other => panic!("{other}"),
            };
            confirmed.push((id.to_owned(), state));
            true
        };
        for _ in 0..=(round * 29 % 60) {
            assert!(read(&mut confirmed), "the child ended by itself");
        }
        std::thread::sleep(Duration::from_micros(round * 7919 % 20_000));
        child.kill().unwrap();
        child.wait().unwrap();
        while read(&mut confirmed) {}
        steps += confirmed.len();

        let journal = Journal::open(&directory.path().join("journal.db")).unwrap();
        single().block_on(async {
            for (id, state) in confirmed {
                let entry = journal.find(&id).await.unwrap().expect("an accepted command");
                assert!(entry.state >= state, "{entry:?} was confirmed as {state:?}");
                let again = journal.accept(command(&id, 1)).await;
                assert!(matches!(again, Err(JournalError::Duplicate { .. })), "{again:?}");
            }
        });
    }
    assert!(steps > 100, "{steps}");
}

fn run_commands_until_killed(directory: &Path) -> ! {
    let journal = Arc::new(Journal::open(&directory.join("journal.db")).unwrap());
    several().block_on(async {
        for _ in 0..16 {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move {
                loop {
                    let id = uuid::Uuid::new_v4().to_string();
                    journal.accept(command(&id, 0)).await.unwrap();
                    tell_parent(&format!("accepted {id}"));
                    journal.note(&id, CommandState::Started);
                    journal.result_ready(&id, format!("{{\"of\":\"{id}\"}}")).await.unwrap();
                    tell_parent(&format!("ready {id}"));
                    journal.sent(vec![id.clone()]).await.unwrap();
                    tell_parent(&format!("sent {id}"));
                }
            });
        }
        std::future::pending().await
    })
}

#[test]
fn a_result_is_cut_until_it_is_sent_and_only_to_a_shorter_one() {
    let (_directory, journal) = journal();
    single().block_on(async {
        journal.accept(command("a", 0)).await.unwrap();
        assert!(journal.result_cut("a", "x".into()).await.is_err(), "it has no result");
        journal.result_ready("a", "long".into()).await.unwrap();
        assert!(journal.result_cut("a", "longer".into()).await.is_err());
        journal.result_cut("a", "cut".into()).await.unwrap();
        assert_eq!(journal.find("a").await.unwrap().unwrap().result_json.unwrap(), "cut");
        journal.sent(vec!["a".to_owned()]).await.unwrap();
        assert!(journal.result_cut("a", "c".into()).await.is_err(), "it is sent");
    });
}
