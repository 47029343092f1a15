//! Filters of single threads.

use super::super::threads::{self, ThreadKind, enter};
use super::*;
use crate::store::{AuditEntry, AuditLog, Channel, Journal, NewCommand, NonceStore};
use protocol::Timestamp;

const NOW: Timestamp = Timestamp::from_millis(1_767_323_045_678);

/// What becomes of a process in which a thread of this kind does something.
fn on_a_thread(kind: ThreadKind, task: fn() -> u8) -> End {
    in_child(|| {
        threads::guard().unwrap();
        rights::limit().unwrap();
        std::thread::spawn(move || {
            enter(kind);
            task()
        })
        .join()
        .unwrap_or(254)
    })
}

#[test]
fn a_thread_of_a_store_that_does_more_ends_the_agent() {
    let killed = End::Signal(libc::SIGSYS);
    let store = ThreadKind::Store;
    assert_eq!(on_a_thread(store, || u8::from(call(libc::SYS_socket) == 0)), killed);
    assert_eq!(on_a_thread(store, || u8::from(call(libc::SYS_connect) == 0)), killed);
    assert_eq!(on_a_thread(store, || u8::from(call(libc::SYS_kill) == 0)), killed);
    assert_eq!(on_a_thread(store, || std::thread::spawn(|| 1).join().unwrap_or(2)), killed);
    assert_eq!(on_a_thread(store, || u8::from(kvm() == libc::EBADF)), killed);
    // What only a store never does is refused.
    let refused = || u8::from(call(libc::SYS_getdents64) == libc::EPERM);
    assert_eq!(on_a_thread(store, refused), End::Said(1));
    let file = || u8::from(File::open("/proc/self/status").is_ok());
    assert_eq!(on_a_thread(store, file), End::Said(1));
}

#[test]
fn a_thread_of_machines_has_kvm_and_no_sockets() {
    let machines = ThreadKind::Machines;
    let killed = End::Signal(libc::SIGSYS);
    assert_eq!(on_a_thread(machines, || u8::from(call(libc::SYS_socket) == 0)), killed);
    assert_eq!(on_a_thread(machines, || u8::from(call(libc::SYS_sendto) == 0)), killed);
    assert_eq!(on_a_thread(machines, || u8::from(kvm() == libc::EBADF)), End::Said(1));
    assert_eq!(on_a_thread(machines, || std::thread::spawn(|| 1).join().unwrap()), End::Said(1));
}

#[test]
fn without_confinement_a_thread_is_like_any_other() {
    let end = in_child(|| {
        std::thread::spawn(|| {
            enter(ThreadKind::Store);
            u8::from(call(libc::SYS_getdents64) == libc::EBADF)
        })
        .join()
        .unwrap()
    });
    assert_eq!(end, End::Said(1));
}

/// `KVM_RUN` on no descriptor: `EBADF` where it is let through.
fn kvm() -> i32 {
    // SAFETY: no descriptor, no effect.
    let result = unsafe { libc::ioctl(-1, 0xae80, 0) };
    if result == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap_or(0) }
}

/// Where the process that does nothing else keeps its stores.
const STORES: &str = "BSM_TEST_CONFINED_STORES";

/// In a program of its own and not in a mere child: SQLite's locks may be held by the threads of
/// other tests when a process is copied, and no thread would ever release the copies.
#[test]
fn stores_work_under_their_filter() {
    const THIS: &str = "confine::tests::threads::stores_work_under_their_filter";
    if let Some(place) = std::env::var_os(STORES) {
        let place = std::path::PathBuf::from(place);
        let files = Files { written: vec![place.clone()], read: Vec::new() };
        let in_force = confine(&files).unwrap();
        assert!(in_force.store_threads && in_force.machine_threads);
        // Once new, once as another process left them.
        for round in 0..2 {
            use_stores(&place, round);
        }
        std::process::exit(7);
    }
    let directory = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", THIS, "--test-threads=1", "--nocapture"])
        .env(STORES, directory.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
}

fn use_stores(place: &Path, round: usize) {
    let nonces = NonceStore::open_anywhere(&place.join("nonces.db"), 100).unwrap();
    let journal = Journal::open(&place.join("journal.db")).unwrap();
    let audit = AuditLog::open(&place.join("audit.db")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for number in 0..200 {
            let id = format!("{round}-{number}");
            let expires = NOW.plus_millis(number);
            nonces.spend(&id, &id, expires, NOW).await.ok();
            let command = NewCommand {
                command_id: id.clone(),
                tenant_id: "t".into(),
                tool: "echo".into(),
                correlation_id: "c".into(),
                operator_id: "o".into(),
                accepted_at: NOW,
            };
            journal.accept(command).await.unwrap();
            journal.result_ready(&id, "x".repeat(100_000)).await.unwrap();
            journal.sent(vec![id]).await.unwrap();
            let entry = AuditEntry::new(NOW, Channel::Sandbox, "Event", b"{}".to_vec());
            audit.append_durable(entry).await.unwrap();
        }
        // Moves the log into the file, and frees pages.
        assert_eq!(journal.prune(NOW.plus_millis(1)).await.unwrap(), 200);
    });
}
