//! The SQLite stores, changed on disk between two processes of the agent: each is refused, or works.
//! First byte: which store.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use brainstorm_agent::store::{
    AuditEntry, AuditLog, Channel, Journal, NewCommand, NonceStore, rows_about, verify_audit,
};
use protocol::Timestamp;
use tokio::runtime::{Builder, Runtime};

use super::state_files::{place, write_private};
use crate::script::Script;

const NOW: Timestamp = Timestamp::from_millis(1_767_323_045_678);
const PAGE: usize = 4096;
const MOST_CHANGES: usize = 12;
const STORES: [&str; 3] = ["nonces", "journal", "audit"];

pub fn run(input: &[u8]) {
    static ORIGINALS: OnceLock<[Vec<u8>; 3]> = OnceLock::new();
    let originals = ORIGINALS.get_or_init(|| STORES.map(original));
    let mut script = Script::new(input);
    let which = script.below(STORES.len());
    let mut bytes = originals[which].clone();
    for _ in 0..MOST_CHANGES {
        if script.is_over() {
            break;
        }
        change(&mut bytes, &mut script);
    }
    let untouched = bytes == originals[which];
    let path = path(STORES[which]);
    write_private(&path, &bytes);
    let works = use_store(STORES[which], &path);
    assert!(works || !untouched, "a good store is refused");
    for companion in ["-wal", "-shm", "-journal"] {
        let mut beside = path.clone().into_os_string();
        beside.push(companion);
        let _ = fs::remove_file(beside);
    }
}

fn path(name: &str) -> PathBuf {
    place().join(format!("{name}.db"))
}

/// A store with something in it.
fn original(name: &str) -> Vec<u8> {
    let path = path(name);
    let _ = fs::remove_file(&path);
    for _ in 0..3 {
        assert!(use_store(name, &path), "{name}");
    }
    fs::read(&path).unwrap()
}

/// Where most of what SQLite believes is: its header, the heads and the ends of pages.
fn change(bytes: &mut Vec<u8>, script: &mut Script<'_>) {
    let kind = script.byte();
    let pages = bytes.len() / PAGE;
    let page = script.below(pages) * PAGE;
    let at = match kind % 8 {
        0 | 1 => script.below(100),
        2 | 3 => page + script.below(256),
        4 | 5 => (page + PAGE).saturating_sub(1 + script.below(256)),
        6 => page + usize::from(script.half()) % PAGE,
        _ => return bytes.truncate(page + usize::from(script.half()) % PAGE),
    };
    let count = script.below(4) + 1;
    for (to, from) in bytes.iter_mut().skip(at).zip(script.bytes(count)) {
        *to = *from;
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// Opens it and does what an agent does. False when it was refused.
fn use_store(name: &str, path: &Path) -> bool {
    match name {
        "nonces" => {
            let Ok(store) = NonceStore::open_anywhere(path, 100) else { return false };
            block_on(async {
                let later = NOW.plus_millis(1000);
                let again = format!("n{}", store.stored());
                let first = store.spend(&again, "c", later, NOW).await;
                // Whatever is in the file, nothing is spent twice.
                assert!(first.is_err() || store.spend(&again, "c", later, NOW).await.is_err());
                let _ = store.live(NOW).await;
            });
        }
        "journal" => {
            let Ok(journal) = Journal::open(path) else { return false };
            let command_id = format!("c{}", journal.unfinished().len());
            let command = NewCommand {
                command_id: command_id.clone(),
                tenant_id: "t".into(),
                tool: "echo".into(),
                correlation_id: "corr".into(),
                operator_id: "o".into(),
                accepted_at: NOW,
            };
            block_on(async {
                let first = journal.accept(command.clone()).await;
                assert!(first.is_err() || journal.accept(command).await.is_err());
                let _ = journal.result_ready("c0", "{}".into()).await;
                let _ = journal.unsent(None, 10).await;
                let _ = journal.owed().await;
                let _ = journal.find(&command_id).await;
                let _ = journal.sent(vec!["c0".into()]).await;
                let _ = journal.prune(NOW.plus_millis(-1)).await;
            });
        }
        _ => {
            let verified = path.exists().then(|| verify_audit(path));
            let _ = rows_about(path, "c0");
            let Ok(log) = AuditLog::open(path) else { return false };
            let mut entry = AuditEntry::new(NOW, Channel::Sandbox, "Event", b"{}".to_vec());
            entry.command_id = Some("c0".into());
            let appended = block_on(async { log.append_durable(entry).await });
            drop(log);
            if let (Some(Ok(_)), Ok(head)) = (verified, appended) {
                let report = verify_audit(path).expect("a good log stays one");
                assert_eq!(report.head, head);
            }
        }
    }
    true
}
