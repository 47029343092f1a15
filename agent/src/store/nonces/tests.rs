use std::io::{BufRead, BufReader};
use std::process::Stdio;

use proptest::prelude::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use super::*;
use crate::store::testing::{
    child, child_directory, child_that_survives_long_files, expect_success, on_disk, several,
    single, tell_parent,
};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const NOON: i64 = 1_767_355_200_000;

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

struct Fixture {
    directory: TempDir,
    store: Option<NonceStore>,
    capacity: usize,
}

impl Fixture {
    fn new(capacity: usize) -> Self {
        let directory = on_disk();
        let store = NonceStore::open_anywhere(&directory.path().join("nonces.db"), capacity);
        Self { directory, store: Some(store.unwrap()), capacity }
    }

    fn store(&self) -> &NonceStore {
        self.store.as_ref().unwrap()
    }

    /// Spends at a time, for an envelope that expires some time after it.
    async fn spend(&self, nonce: &str, now: i64, life: i64) -> Result<(), NonceError> {
        self.store().spend(nonce, &format!("command of {nonce}"), time(now + life), time(now)).await
    }

    fn restart(&mut self) {
        self.store = None;
        let path = self.directory.path().join("nonces.db");
        self.store = Some(NonceStore::open_anywhere(&path, self.capacity).unwrap());
    }
}

fn is_replay(outcome: &Result<(), NonceError>) -> bool {
    matches!(outcome, Err(NonceError::Replay { .. }))
}

#[test]
fn a_nonce_is_good_once_also_after_a_restart() {
    let mut fixture = Fixture::new(10);
    single().block_on(async {
        fixture.spend("a", NOON, 5 * MINUTE).await.unwrap();
        let replay = Err(NonceError::Replay { command_id: "command of a".to_owned() });
        assert_eq!(fixture.spend("a", NOON, 5 * MINUTE).await, replay);
        fixture.restart();
        assert_eq!(fixture.spend("a", NOON, 5 * MINUTE).await, replay);
        fixture.spend("b", NOON, 5 * MINUTE).await.unwrap();
        assert_eq!(fixture.store().stored(), 2);
    });
}

#[test]
fn a_replay_is_told_from_a_full_store_and_a_full_store_forgets_nothing_live() {
    let mut fixture = Fixture::new(2);
    single().block_on(async {
        fixture.spend("a", NOON, 5 * MINUTE).await.unwrap();
        fixture.spend("b", NOON, 5 * MINUTE).await.unwrap();
        for _ in 0..2 {
            let full = Err(NonceError::Full { capacity: 2 });
            assert_eq!(fixture.spend("c", NOON + 6 * MINUTE, 5 * MINUTE).await, full);
            assert!(is_replay(&fixture.spend("a", NOON, 5 * MINUTE).await));
            assert!(is_replay(&fixture.spend("b", NOON, 5 * MINUTE).await));
            assert_eq!(fixture.store().live(time(NOON + 6 * MINUTE)).await, Ok(2));
            fixture.restart();
        }
        fixture.spend("c", NOON + 8 * MINUTE, 5 * MINUTE).await.unwrap();
        assert_eq!(fixture.store().live(time(NOON + 8 * MINUTE)).await, Ok(1));
    });
}

#[test]
fn entries_are_kept_seven_minutes_and_until_the_envelope_is_stale() {
    // A short life, and a long one: what is later counts.
    for (life, kept) in [(MINUTE, 7 * MINUTE), (20 * MINUTE, 21 * MINUTE)] {
        let fixture = Fixture::new(1);
        single().block_on(async {
            fixture.spend("a", NOON, life).await.unwrap();
            let at_the_end = fixture.spend("b", NOON + kept, 5 * MINUTE).await;
            assert_eq!(at_the_end, Err(NonceError::Full { capacity: 1 }));
            fixture.spend("b", NOON + kept + 1, 5 * MINUTE).await.unwrap();
        });
    }
}

#[test]
fn a_clock_set_forward_and_back_makes_no_nonce_good_again() {
    let mut fixture = Fixture::new(1);
    single().block_on(async {
        fixture.spend("a", NOON, 5 * MINUTE).await.unwrap();
        // Needs the room, and by the clock of that moment the first one is long stale.
        fixture.spend("b", NOON + DAY, 5 * MINUTE).await.unwrap();
        for _ in 0..2 {
            let forgotten =
                Err(NonceError::ClockWentBack { forgotten_until: time(NOON + 5 * MINUTE) });
            assert_eq!(fixture.spend("a", NOON + MINUTE, 4 * MINUTE).await, forgotten);
            fixture.restart();
        }
    });
}

#[test]
fn after_the_clock_went_back_new_envelopes_are_taken() {
    let fixture = Fixture::new(2);
    single().block_on(async {
        fixture.spend("a", NOON, 5 * MINUTE).await.unwrap();
        fixture.spend("b", NOON + 1, 5 * MINUTE).await.unwrap();
        fixture.spend("c", NOON + DAY, 5 * MINUTE).await.unwrap();
        fixture.spend("d", NOON + 2 * MINUTE, 5 * MINUTE).await.unwrap();
    });
}

#[test]
fn a_clock_set_back_refuses_nothing_while_there_is_room() {
    let fixture = Fixture::new(100);
    single().block_on(async {
        for minute in 0..60 {
            fixture.spend(&minute.to_string(), NOON + minute * MINUTE, 5 * MINUTE).await.unwrap();
        }
        assert_eq!(fixture.store().live(time(NOON + HOUR)).await, Ok(7));
        fixture.spend("new", NOON, 5 * MINUTE).await.unwrap();
        assert!(is_replay(&fixture.spend("0", NOON, 5 * MINUTE).await));
    });
}

#[test]
fn a_smaller_capacity_forgets_only_what_it_may() {
    let mut fixture = Fixture::new(100);
    single().block_on(async {
        for number in 0..100 {
            fixture.spend(&number.to_string(), NOON, 5 * MINUTE).await.unwrap();
        }
        fixture.capacity = 10;
        fixture.restart();
        let full = Err(NonceError::Full { capacity: 10 });
        assert_eq!(fixture.spend("new", NOON, 5 * MINUTE).await, full);
        fixture.spend("new", NOON + 8 * MINUTE, 5 * MINUTE).await.unwrap();
        assert!(fixture.store().stored() <= 10);
    });
}

#[test]
fn of_many_callers_with_one_nonce_one_succeeds() {
    let mut fixture = Fixture::new(1000);
    let store = Arc::new(fixture.store.take().unwrap());
    several().block_on(async {
        let callers: Vec<_> = (0..400)
            .map(|number| {
                let store = Arc::clone(&store);
                let nonce = (number % 4).to_string();
                tokio::spawn(async move {
                    store.spend(&nonce, &number.to_string(), time(NOON + MINUTE), time(NOON)).await
                })
            })
            .collect();
        let mut spent = 0;
        for caller in callers {
            match caller.await.unwrap() {
                Ok(()) => spent += 1,
                refused => assert!(is_replay(&refused), "{refused:?}"),
            }
        }
        assert_eq!(spent, 4);
    });
}

#[test]
fn nonces_that_cannot_be_are_refused_unstored() {
    let fixture = Fixture::new(10);
    single().block_on(async {
        let outcome = fixture.spend(&"x".repeat(MAX_NONCE + 1), NOON, MINUTE).await;
        assert_eq!(outcome, Err(NonceError::TooLong));
        assert_eq!(fixture.store().stored(), 0);
        fixture.spend(&"x".repeat(MAX_NONCE), NOON, MINUTE).await.unwrap();
    });
}

#[test]
fn memory_is_refused_as_a_place_for_nonces() {
    let memory = Path::new("/dev/shm");
    if volatile_filesystem(memory) != Ok(Some("tmpfs")) {
        eprintln!("skipped: /dev/shm is not tmpfs here");
        return;
    }
    let directory = tempfile::tempdir_in(memory).unwrap();
    let path = directory.path().join("nonces.db");
    let error = NonceStore::open(&path, 10).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Volatile { .. }), "{error}");
    assert!(!path.exists());
    NonceStore::open_anywhere(&path, 10).unwrap();
}

#[test]
fn a_disk_with_room_is_taken_by_the_strict_way_too() {
    let directory = on_disk();
    if volatile_filesystem(directory.path()).unwrap().is_some() {
        eprintln!("skipped: everything is in memory here");
        return;
    }
    NonceStore::open(&directory.path().join("nonces.db"), 10).unwrap();
}

#[test]
fn a_hundred_thousand_live_nonces_fit() {
    let mut fixture = Fixture::new(100_000);
    let store = Arc::new(fixture.store.take().unwrap());
    several().block_on(async {
        let callers: Vec<_> = (0..250)
            .map(|caller| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    for number in 0..400 {
                        let nonce = format!("{caller}.{number}");
                        let expires_at = time(NOON + 5 * MINUTE);
                        store.spend(&nonce, "command", expires_at, time(NOON)).await.unwrap();
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
        assert_eq!(store.live(time(NOON)).await, Ok(100_000));
        let over = store.spend("one more", "command", time(NOON + MINUTE), time(NOON)).await;
        assert_eq!(over, Err(NonceError::Full { capacity: 100_000 }));
    });
}

#[test]
fn a_nonce_that_did_not_reach_the_disk_is_not_spent() {
    let fixture = Fixture::new(1000);
    single().block_on(async {
        let limit = |pages: i64| {
            fixture.store().writer.call(move |_, database| {
                database
                    .pragma_update_and_check(None, "max_page_count", pages, |row| row.get(0))
                    .map(|_: i64| ())
            })
        };
        limit(1).await.unwrap();
        let mut number = 0;
        let full = loop {
            number += 1;
            if let Err(error) = fixture.spend(&number.to_string(), NOON, MINUTE).await {
                break error;
            }
        };
        assert!(matches!(full, NonceError::Store(StoreError::Full { .. })), "{full:?}");
        assert_eq!(fixture.store().stored(), number - 1);
        limit(1_000_000).await.unwrap();
        fixture.spend(&number.to_string(), NOON, MINUTE).await.unwrap();
        assert_eq!(fixture.store().stored(), number);
    });
}

#[test]
fn a_write_the_system_refuses_spends_nothing_and_is_got_over() {
    let Some(directory) = child_directory() else {
        let directory = on_disk();
        let test = "a_write_the_system_refuses_spends_nothing_and_is_got_over";
        expect_success(child_that_survives_long_files(module_path!(), test, directory.path()));
        assert!(directory.path().join("nonces.db").exists());
        return;
    };
    let path = directory.join("nonces.db");
    let log = directory.join("nonces.db-wal");
    let store = NonceStore::open_anywhere(&path, 1000).unwrap();
    let spend = |nonce: &'static str| store.spend(nonce, "command", time(NOON), time(NOON));
    single().block_on(async {
        spend("before").await.unwrap();
        // From here on no file may grow.
        let usual = getrlimit(Resource::Fsize);
        let length = std::fs::metadata(&log).unwrap().len();
        setrlimit(Resource::Fsize, Rlimit { current: Some(length), ..usual }).unwrap();
        for _ in 0..3 {
            let refused = spend("during").await.unwrap_err();
            assert!(matches!(refused, NonceError::Store(StoreError::Io { .. })), "{refused:?}");
            assert!(is_replay(&spend("before").await));
        }
        setrlimit(Resource::Fsize, usual).unwrap();
        spend("during").await.unwrap();
    });
    drop(store);
    let store = NonceStore::open_anywhere(&path, 1000).unwrap();
    single().block_on(async {
        for nonce in ["before", "during"] {
            assert!(is_replay(&store.spend(nonce, "command", time(NOON), time(NOON)).await));
        }
    });
}

#[test]
fn what_was_said_to_be_spent_is_spent_after_kill_9() {
    if let Some(directory) = child_directory() {
        spend_until_killed(&directory);
    }
    let directory = on_disk();
    let mut known: Vec<String> = Vec::new();
    for round in 0..10_u64 {
        let test = "what_was_said_to_be_spent_is_spent_after_kill_9";
        let mut child = child(module_path!(), test, directory.path())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut read = |known: &mut Vec<String>| {
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            // A line without an end was being written when the process ended.
            let whole = line.strip_suffix('\n').map(|line| {
                known.push(line.strip_prefix("spent ").expect(line).to_owned());
            });
            whole.is_some()
        };
        for _ in 0..=(round * 37 % 50) {
            assert!(read(&mut known), "the child ended by itself");
        }
        let random = known.last().unwrap().bytes().map(u64::from).sum::<u64>() * 7919 % 40_000;
        std::thread::sleep(Duration::from_micros(random));
        child.kill().unwrap();
        child.wait().unwrap();
        while read(&mut known) {}

        let path = directory.path().join("nonces.db");
        let store = NonceStore::open_anywhere(&path, 1_000_000).unwrap();
        single().block_on(async {
            for nonce in &known {
                let again = store.spend(nonce, "again", time(NOON + MINUTE), time(NOON)).await;
                assert!(is_replay(&again), "round {round}, {nonce}: {again:?}");
            }
        });
    }
    assert!(known.len() > 100, "{}", known.len());
}

fn spend_until_killed(directory: &Path) -> ! {
    let path = directory.join("nonces.db");
    let store = Arc::new(NonceStore::open_anywhere(&path, 1_000_000).unwrap());
    several().block_on(async {
        for _ in 0..32 {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                loop {
                    let nonce = uuid::Uuid::new_v4().to_string();
                    store.spend(&nonce, "first", time(NOON + MINUTE), time(NOON)).await.unwrap();
                    tell_parent(&format!("spent {nonce}"));
                }
            });
        }
        std::future::pending().await
    })
}

/// What happens to a store, one after the other.
#[derive(Debug, Clone)]
enum Step {
    /// The clock moves by this much, in either direction.
    Clock(i64),
    /// An envelope with a new nonce and this life arrives.
    New(i64),
    /// One of the envelopes so far arrives again.
    Again(prop::sample::Index),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let clock = prop_oneof![
        4 => 0..2 * MINUTE,
        1 => 0..10 * MINUTE,
        1 => -HOUR..HOUR,
        1 => Just(DAY),
        1 => Just(-DAY),
    ];
    let step = prop_oneof![
        4 => clock.prop_map(Step::Clock),
        5 => (-MINUTE..5 * MINUTE).prop_map(Step::New),
        5 => any::<prop::sample::Index>().prop_map(Step::Again),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn no_nonce_is_spent_twice_whatever_the_clock_does(steps in steps(), capacity in 1..6_usize) {
        let mut fixture = Fixture::new(capacity);
        let mut now = NOON;
        let mut envelopes: Vec<(String, i64, bool)> = Vec::new();
        for step in steps {
            let index = match step {
                Step::Clock(by) => { now += by; continue }
                Step::Restart => { fixture.restart(); continue }
                Step::New(life) => {
                    envelopes.push((envelopes.len().to_string(), now + life, false));
                    envelopes.len() - 1
                }
                Step::Again(_) if envelopes.is_empty() => continue,
                Step::Again(which) => which.index(envelopes.len()),
            };
            let (nonce, expires_at, spent) = &mut envelopes[index];
            let spending = fixture.store().spend(nonce, "command", time(*expires_at), time(now));
            if single().block_on(spending).is_ok() {
                prop_assert!(!*spent, "{nonce} was spent twice");
                *spent = true;
            }
        }
    }

    #[test]
    fn a_clock_that_never_goes_back_refuses_no_new_nonce(
        steps in prop::collection::vec((0..10 * MINUTE, -MINUTE..5 * MINUTE), 1..60),
    ) {
        let fixture = Fixture::new(20);
        let mut now = NOON;
        for (number, (passed, life)) in steps.into_iter().enumerate() {
            now += passed;
            match single().block_on(fixture.spend(&number.to_string(), now, life)) {
                Ok(()) => {}
                // Twenty may well be live at once.
                Err(NonceError::Full { .. }) => {
                    let live = single().block_on(fixture.store().live(time(now)));
                    prop_assert_eq!(live, Ok(20));
                }
                refused => prop_assert!(false, "{:?}", refused),
            }
        }
    }
}
