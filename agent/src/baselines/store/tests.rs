use std::os::unix::fs::PermissionsExt;

use ed25519_dalek::SigningKey;
use tempfile::TempDir;

use super::*;
use crate::baselines::record::tests::{hash, record};
use crate::baselines::start::{Fallback, StartError, start};
use crate::keyholder::mac_of_baselines;
use crate::store::StateDir;

struct Key(SigningKey);

impl Key {
    fn new(byte: u8) -> Self {
        Self(SigningKey::from_bytes(&[byte; 32]))
    }
}

impl Authenticator for Key {
    fn mac(&self, digest: [u8; 32]) -> Result<[u8; 32], KeyHolderError> {
        Ok(mac_of_baselines(&self.0, "endpoint", &digest).unwrap())
    }
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn load(dir: &TempDir, key: &Key) -> Result<Option<Installed>, BaselineError> {
    BaselineStore::new(dir.path(), key).load()
}

#[test]
fn the_first_goes_into_a_the_next_into_the_other_and_rolling_back_goes_back() {
    let (dir, key) = (directory(), Key::new(1));
    let store = BaselineStore::new(dir.path(), &key);
    assert_eq!(store.load().unwrap(), None);
    assert!(matches!(store.rollback(), Err(BaselineError::Nothing)));
    assert_eq!(store.mint(record("one")).unwrap(), Slot::A);
    assert!(matches!(store.rollback(), Err(BaselineError::NoOther)));
    store.confirm().unwrap();
    assert_eq!(store.mint(record("two")).unwrap(), Slot::B);
    let installed = store.load().unwrap().unwrap();
    assert_eq!(installed.active, Slot::B);
    assert_eq!(installed.a, Some(Minted { record: record("one"), proved: true }));
    assert_eq!(installed.b, Some(Minted { record: record("two"), proved: false }));
    // One that never proved itself makes room, not the one that did.
    assert_eq!(store.mint(record("three")).unwrap(), Slot::B);
    assert_eq!(store.load().unwrap().unwrap().a.unwrap().record, record("one"));
    assert_eq!(store.rollback().unwrap(), Slot::A);
    assert_eq!(store.load().unwrap().unwrap().active().unwrap().record, record("one"));
    let mode = fs::metadata(store.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let rows: i64 = Connection::open(store.path())
        .unwrap()
        .query_row("SELECT count(*) FROM slot", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 2, "it is an SQLite file for everybody");
}

#[test]
fn a_changed_byte_anywhere_is_refused() {
    let (dir, key) = (directory(), Key::new(1));
    let store = BaselineStore::new(dir.path(), &key);
    store.mint(record("one")).unwrap();
    let good = fs::read(store.path()).unwrap();
    // All of what is used, and a sample of what is empty.
    let places = (0..good.len()).filter(|at| good[*at] != 0 || at % 61 == 0);
    for at in places {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(store.path(), &bad).unwrap();
        let error = store.load().unwrap_err();
        assert!(matches!(error, BaselineError::Changed { .. }), "byte {at}: {error}");
        assert!(error.to_string().contains("baselines.db"), "{error}");
    }
    for bad in [&good[..good.len() - 1], &good[..4096], b"", &[good.clone(), vec![0; 512]].concat()]
    {
        fs::write(store.path(), bad).unwrap();
        assert!(store.load().is_err(), "{} bytes", bad.len());
    }
    fs::write(store.path(), &good).unwrap();
    assert!(store.load().unwrap().is_some());
}

#[test]
fn only_this_endpoint_can_write_it() {
    let (dir, key) = (directory(), Key::new(1));
    BaselineStore::new(dir.path(), &key).mint(record("one")).unwrap();
    assert!(matches!(load(&dir, &Key::new(2)), Err(BaselineError::Changed { .. })));
    assert!(load(&dir, &key).unwrap().is_some());
    // Not with an SQLite client either.
    let database = Connection::open(dir.path().join("baselines.db")).unwrap();
    database.execute("UPDATE slot SET proved = 1", []).unwrap();
    drop(database);
    assert!(matches!(load(&dir, &key), Err(BaselineError::Changed { .. })));
}

#[test]
fn a_log_beside_it_is_refused_and_so_is_a_file_that_vanished() {
    let (dir, key) = (directory(), Key::new(1));
    let state = dir.path().join("state");
    drop(StateDir::open(&state).unwrap());
    let store = BaselineStore::new(&state, &key);
    store.mint(record("one")).unwrap();
    let log = state.join("baselines.db-wal");
    fs::write(&log, "").unwrap();
    fs::set_permissions(&log, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(store.load(), Err(BaselineError::Store(StoreError::Corrupt { .. }))));
    fs::remove_file(&log).unwrap();
    fs::remove_file(store.path()).unwrap();
    assert!(matches!(store.load(), Err(BaselineError::Store(StoreError::Missing { .. }))));
}

#[test]
fn worthless_records_are_neither_written_nor_believed() {
    let (dir, key) = (directory(), Key::new(1));
    let store = BaselineStore::new(dir.path(), &key);
    let empty = BaselineRecord { fs_hash: hash(""), ..record("one") };
    assert!(matches!(store.mint(empty.clone()), Err(BaselineError::Worthless(_))));
    assert_eq!(store.load().unwrap(), None);
    let minted = Some(Minted { record: empty, proved: true });
    store.write(&Installed { active: Slot::A, a: minted, b: None }).unwrap();
    assert!(matches!(store.load(), Err(BaselineError::Worthless(_))));
    store.write(&Installed { active: Slot::B, a: None, b: None }).unwrap();
    assert!(matches!(store.load(), Err(BaselineError::Changed { .. })));
}

#[test]
fn the_newest_that_fails_its_first_reset_makes_way_for_the_one_before() {
    let (dir, key) = (directory(), Key::new(1));
    let store = BaselineStore::new(dir.path(), &key);
    assert!(start(&store, |_, _| Ok(())).unwrap().is_none());
    let golden = |record: &BaselineRecord| record.golden_hash.clone();
    let fails = |of: &str| {
        let bad = hash(of);
        move |record: &BaselineRecord, _: Fallback| {
            if record.golden_hash == bad {
                return Err(StartError::Machine("it is not clean".to_owned()));
            }
            Ok(golden(record))
        }
    };
    store.mint(record("one")).unwrap();
    // There is nothing to go back to.
    assert!(matches!(start(&store, fails("one")), Err(StartError::Machine(_))));
    let started = start(&store, fails("none")).unwrap().unwrap();
    assert_eq!((started.slot, started.rolled_back), (Slot::A, None));
    assert!(store.load().unwrap().unwrap().a.unwrap().proved);

    store.mint(record("two")).unwrap();
    let started = start(&store, fails("two")).unwrap().unwrap();
    assert_eq!(started.made, hash("one"));
    assert_eq!(started.slot, Slot::A);
    assert!(started.rolled_back.unwrap().contains("not clean"));
    assert_eq!(store.load().unwrap().unwrap().active, Slot::A);

    // What has proved itself is not given up for one bad start.
    store.mint(record("three")).unwrap();
    start(&store, fails("none")).unwrap().unwrap();
    assert!(matches!(start(&store, fails("three")), Err(StartError::Machine(_))));
    assert_eq!(store.load().unwrap().unwrap().active, Slot::B);
}

#[test]
fn it_is_an_incident_where_there_is_nothing_to_go_back_to() {
    let (dir, key) = (directory(), Key::new(1));
    let store = BaselineStore::new(dir.path(), &key);
    let attempts = |fail: bool| {
        let mut attempts = Vec::new();
        let started = start(&store, |record, fallback| {
            attempts.push((record.golden_hash.clone(), fallback));
            if fail { Err(StartError::NotAsInstalled("it is not".to_owned())) } else { Ok(()) }
        });
        (started.map(|_| ()), attempts)
    };
    store.mint(record("one")).unwrap();
    let (failed, tried) = attempts(true);
    assert_eq!(tried, [(hash("one"), Fallback::None)]);
    assert!(failed.unwrap_err().alarm().unwrap().contains("it is not"));
    attempts(false).0.unwrap();
    store.mint(record("two")).unwrap();
    let (failed, tried) = attempts(true);
    let both = [(hash("two"), Fallback::EarlierRecord), (hash("one"), Fallback::None)];
    assert_eq!(tried, both);
    assert!(failed.unwrap_err().alarm().is_some());
    // Once it has proved itself there is no way back.
    attempts(false).0.unwrap();
    let (_, tried) = attempts(true);
    assert_eq!(tried, [(hash("two"), Fallback::None)]);
}

#[test]
fn an_alarm_is_what_no_upgrade_and_no_settings_explain() {
    let (dir, key) = (directory(), Key::new(1));
    let store = BaselineStore::new(dir.path(), &key);
    let alarm_of = |found: BaselineRecord| {
        let error = StartError::from(crate::baselines::check(&record("one"), &found).unwrap_err());
        error.alarm().is_some()
    };
    assert!(alarm_of(record("two")));
    assert!(alarm_of(BaselineRecord { open_fd_count: 99, ..record("one") }));
    assert!(!alarm_of(BaselineRecord { kernel_sha256: hash("other"), ..record("one") }));
    assert!(!alarm_of(BaselineRecord { memory_mib: 7, ..record("two") }));
    assert!(StartError::Machine("no KVM".to_owned()).alarm().is_none());
    assert!(StartError::from(BaselineError::Nothing).alarm().is_none());
    store.mint(record("one")).unwrap();
    let mut bytes = fs::read(&store.path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&store.path, bytes).unwrap();
    let error = start(&store, |_, _| Ok(())).unwrap_err();
    assert!(error.alarm().unwrap().contains("not as this endpoint wrote it"), "{error}");
}

#[test]
fn another_kernel_is_no_reason_to_go_back() {
    let (dir, key) = (directory(), Key::new(1));
    let store = BaselineStore::new(dir.path(), &key);
    store.mint(record("one")).unwrap();
    store.confirm().unwrap();
    store.mint(record("two")).unwrap();
    let found = BaselineRecord { kernel_sha256: hash("other"), ..record("two") };
    let error = start(&store, |record, _| {
        crate::baselines::check(record, &found)?;
        Ok(())
    })
    .unwrap_err();
    assert!(error.to_string().contains("kernel_sha256 was"), "{error}");
    assert_eq!(store.load().unwrap().unwrap().active, Slot::B);
}

#[test]
fn only_snapshots_that_are_named_are_kept() {
    let dir = directory();
    let named = dir.path().join("a.snapshot");
    for name in ["a.snapshot", "b.snapshot", "note"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    let minted =
        Minted { record: BaselineRecord { snapshot: named, ..record("one") }, proved: false };
    let installed = Installed { active: Slot::A, a: Some(minted), b: None };
    remove_unused(dir.path(), &installed).unwrap();
    let mut left: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["a.snapshot", "note"]);
}
