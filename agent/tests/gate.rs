//! A command that waits for its machine begins only if it still may when it gets one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod commands_rig;

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use brainstorm_agent::commands::{Answer, Caller, Commands, Owed, Undelivered};
use futures_util::future::BoxFuture;
use protocol::keyring::KeyRing;
use sandbox::{Cause, ForensicDump, Incident};
use serde_json::Value;

use commands_rig::{KEY_ID, NoMachines, SESSION, commands, envelope};

const SOON: Duration = Duration::from_secs(30);

/// A caller that keeps results.
#[derive(Default)]
struct Reader(Mutex<Vec<Value>>);

impl Caller for Reader {
    fn session_id(&self) -> &str {
        SESSION
    }

    fn answer(&self, _: Answer) -> BoxFuture<'_, Result<(), Undelivered>> {
        Box::pin(async { Ok(()) })
    }

    fn deliver<'a>(&'a self, owed: &'a mut Owed<'_>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.0.lock().unwrap().push(serde_json::from_str(owed.text()).unwrap());
            owed.written();
            owed.read().await;
        })
    }
}

/// Acknowledges a command, then does `change` while it waits for its machine. Gives the code of its
/// result, and whether it ran.
async fn changed_while_it_waits(
    change: impl FnOnce(&Path, &Arc<Commands>),
) -> (Option<String>, bool) {
    let dir = tempfile::tempdir().unwrap();
    let executor = Arc::new(NoMachines::default());
    executor.wait.store(true, Ordering::SeqCst);
    let commands = commands(dir.path(), &executor).await;
    let reader = Arc::new(Reader::default());
    let caller = Arc::clone(&reader) as Arc<dyn Caller>;
    commands.submit(caller, envelope("echo"), Instant::now()).await;
    change(dir.path(), &commands);
    commands.reload();
    executor.wait.store(false, Ordering::SeqCst);
    let answered = async {
        loop {
            if let Some(result) = reader.0.lock().unwrap().first() {
                return result["error"]["code"].as_str().map(str::to_owned);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let code = tokio::time::timeout(SOON, answered).await.unwrap();
    (code, executor.ran.load(Ordering::SeqCst) > 0)
}

fn refused(code: &str) -> (Option<String>, bool) {
    (Some(code.to_owned()), false)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_begins_where_nothing_has_changed() {
    let (code, ran) = changed_while_it_waits(|_, _| ()).await;
    assert_eq!(
        (code.as_deref(), ran),
        (Some("SANDBOX_VSOCK_CLOSED"), true),
        "as this executor says"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kill_switch_stops_what_waits() {
    let pulled = changed_while_it_waits(|dir, _| fs::write(dir.join("kill"), "").unwrap()).await;
    assert_eq!(pulled, refused("ENDPOINT_POLICY_DENIED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_denies_by_now_stops_what_waits() {
    for text in ["default = 'deny'\n", "nonsense"] {
        let denied =
            changed_while_it_waits(|dir, _| fs::write(dir.join("policy.toml"), text).unwrap());
        assert_eq!(denied.await, refused("ENDPOINT_POLICY_DENIED"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_good_any_more_stops_what_waits() {
    let with = |text: String| {
        changed_while_it_waits(move |dir, _| fs::write(dir.join("keys.toml"), text).unwrap())
    };
    let ring =
        |revoked: Option<&str>| KeyRing::new(vec![], revoked.map(str::to_owned)).unwrap().to_toml();
    for text in [ring(Some(KEY_ID)), ring(None)] {
        assert_eq!(with(text).await, refused("ENDPOINT_SIGNATURE_INVALID"));
    }
    assert_eq!(with("nonsense".to_owned()).await, refused("SYSTEM_INTERNAL_ERROR"));
}

#[tokio::test(flavor = "multi_thread")]
async fn degraded_mode_and_a_stop_hold_back_what_waits() {
    let incident = Incident {
        at: SystemTime::now(),
        command_id: None,
        cause: Cause::ResetFailed("as told".into()),
        dump: ForensicDump::default(),
    };
    let halted = changed_while_it_waits(|_, commands| commands.degraded().halt(&incident)).await;
    assert_eq!(halted, refused("ENDPOINT_INTEGRITY_MONITOR_TRIPPED"));
    let stopping = changed_while_it_waits(|_, commands| {
        let commands = Arc::clone(commands);
        tokio::spawn(async move { commands.drain(SOON).await });
        std::thread::sleep(Duration::from_millis(300));
    });
    assert_eq!(stopping.await, refused("ENDPOINT_SANDBOX_NOT_READY"));
}
