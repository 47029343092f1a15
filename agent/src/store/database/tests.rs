use std::os::unix::fs::{PermissionsExt, symlink};

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use tempfile::TempDir;

use super::*;
use crate::store::testing::{child, child_directory, expect_success, mode, on_disk};

const KIND: Kind = Kind {
    name: "test store",
    application_id: 7,
    version: 3,
    schema: "CREATE TABLE word (word TEXT PRIMARY KEY) STRICT;",
    shared: false,
    check: DamageCheck::Whole,
};

fn directory_with_store() -> (TempDir, PathBuf) {
    let directory = on_disk();
    let path = directory.path().join("words.db");
    let (database, _) = open(&path, &KIND).unwrap();
    database.execute_batch("BEGIN").unwrap();
    for number in 0..1000 {
        database.execute("INSERT INTO word VALUES (?1)", [format!("word {number}")]).unwrap();
    }
    database.execute_batch("COMMIT").unwrap();
    drop(database);
    (directory, path)
}

/// Wants the file refused, named, and left as it is.
fn expect_refused(path: &Path, wanted: fn(&StoreError) -> bool) {
    let before = fs::read(path).unwrap();
    let error = open(path, &KIND).map(|_| ()).unwrap_err();
    assert!(wanted(&error), "{error:?}");
    assert!(error.to_string().contains("words.db"), "{error}");
    assert_eq!(fs::read(path).unwrap(), before);
}

fn corrupt(error: &StoreError) -> bool {
    matches!(error, StoreError::Corrupt { .. })
}

fn foreign(error: &StoreError) -> bool {
    matches!(error, StoreError::Foreign { .. })
}

#[test]
fn a_store_is_made_whole_private_and_can_be_opened_again() {
    let (directory, path) = directory_with_store();
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let (database, real) = open(&path, &KIND).unwrap();
    assert_eq!(real, path.canonicalize().unwrap());
    let count: i64 = database.query_row("SELECT count(*) FROM word", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1000);
}

#[test]
fn the_umask_opens_no_file_to_others() {
    if let Some(directory) = child_directory() {
        rustix::process::umask(rustix::fs::Mode::empty());
        let path = directory.join("words.db");
        for shared in [false, true] {
            let (database, _) = open(&path, &Kind { shared, ..KIND }).unwrap();
            database.execute("INSERT INTO word VALUES (?1)", [shared]).unwrap();
            let names: Vec<_> = fs::read_dir(&directory).unwrap().map(Result::unwrap).collect();
            assert_eq!(names.len(), if shared { 3 } else { 2 }, "{names:?}");
            for name in names {
                assert_eq!(mode(&name.path()), 0o600, "{name:?}");
            }
        }
        return;
    }
    let directory = on_disk();
    expect_success(child(module_path!(), "the_umask_opens_no_file_to_others", directory.path()));
    assert!(directory.path().join("words.db").exists());
}

#[test]
fn files_others_may_touch_are_refused() {
    let (_directory, path) = directory_with_store();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    expect_refused(&path, |error| matches!(error, StoreError::Permissions { .. }));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let log = sidecar_path(&path, "-wal");
    fs::write(&log, "").unwrap();
    fs::set_permissions(&log, fs::Permissions::from_mode(0o644)).unwrap();
    let message = open(&path, &KIND).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("words.db-wal"), "{message}");
}

#[test]
fn a_link_is_not_followed() {
    let (directory, path) = directory_with_store();
    let link = directory.path().join("link.db");
    symlink(&path, &link).unwrap();
    let error = open(&link, &KIND).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Permissions { .. }), "{error}");
}

#[test]
fn other_files_are_refused_and_left_alone() {
    let (_directory, path) = directory_with_store();
    fs::write(&path, "").unwrap();
    expect_refused(&path, corrupt);
    fs::write(&path, "{}").unwrap();
    expect_refused(&path, corrupt);
    fs::write(&path, format!("{{\"words\": \"{}\"}}", "x".repeat(20_000))).unwrap();
    expect_refused(&path, corrupt);

    fs::remove_file(&path).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE word (word TEXT)").unwrap();
    drop(other);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    expect_refused(&path, foreign);
}

#[test]
fn another_store_and_another_version_are_refused() {
    let (_directory, path) = directory_with_store();
    for other in [Kind { application_id: 8, ..KIND }, Kind { version: 2, ..KIND }] {
        let error = open(&path, &other).map(|_| ()).unwrap_err();
        assert!(foreign(&error), "{error}");
    }
    open(&path, &KIND).unwrap();
}

#[test]
fn damage_is_refused_or_did_not_matter() {
    let (_directory, path) = directory_with_store();
    let whole = fs::read(&path).unwrap();
    let mut refused = 0;
    // 97 bytes apart, so that every page is hit at other places.
    for start in (0..whole.len()).step_by(97) {
        let mut damaged = whole.clone();
        for byte in damaged.iter_mut().skip(start).take(8) {
            *byte = !*byte;
        }
        fs::write(&path, &damaged).unwrap();
        match open(&path, &KIND) {
            Err(error) => {
                assert!(corrupt(&error) || foreign(&error), "{start}: {error:?}");
                assert_eq!(fs::read(&path).unwrap(), damaged, "{start}");
                refused += 1;
            }
            Ok((database, _)) => {
                let count: i64 =
                    database.query_row("SELECT count(*) FROM word", [], |row| row.get(0)).unwrap();
                assert_eq!(count, 1000, "{start}");
            }
        }
    }
    assert!(refused > 10, "only {refused} refused");
}

/// Where the rows say one thing and an index another, the pages are in order and as many as wanted.
#[test]
fn only_the_whole_check_holds_indexes_against_rows() {
    const INDEXED: Kind = Kind {
        schema: "CREATE TABLE word (word TEXT) STRICT; CREATE INDEX by_word ON word (word);",
        ..KIND
    };
    let directory = on_disk();
    let path = directory.path().join("words.db");
    let (database, _) = open(&path, &INDEXED).unwrap();
    database.execute("INSERT INTO word VALUES ('before')", []).unwrap();
    drop(database);
    for hidden in [
        "CREATE TABLE aside AS SELECT * FROM sqlite_schema WHERE name = 'by_word';
         DELETE FROM sqlite_schema WHERE name = 'by_word';",
        "UPDATE word SET word = 'after';",
        "INSERT INTO sqlite_schema SELECT * FROM aside;
         DROP TABLE aside;",
    ] {
        let database = Connection::open(&path).unwrap();
        database.execute_batch("PRAGMA writable_schema = ON;").unwrap();
        database.execute_batch(hidden).unwrap();
    }
    let structure = Kind { check: DamageCheck::Structure, ..INDEXED };
    let (database, _) = open(&path, &structure).unwrap();
    let look_up = "SELECT count(*) FROM word WHERE word = 'after'";
    let found: i64 = database.query_row(look_up, [], |row| row.get(0)).unwrap();
    assert_eq!(found, 0, "the index knows the row after all");
    drop(database);
    let error = open(&path, &INDEXED).map(|_| ()).unwrap_err();
    assert!(corrupt(&error) && error.to_string().contains("by_word"), "{error}");
}

#[test]
fn a_file_that_was_cut_off_is_refused() {
    let (_directory, path) = directory_with_store();
    let whole = fs::read(&path).unwrap();
    for length in [whole.len() - 1, whole.len() - 4096, 4096, 100, 50] {
        fs::write(&path, &whole[..length]).unwrap();
        expect_refused(&path, corrupt);
    }
}

#[test]
fn a_store_is_not_made_beside_the_log_of_one_that_is_gone() {
    let (_directory, path) = directory_with_store();
    fs::rename(&path, sidecar_path(&path, "-wal")).unwrap();
    let message = open(&path, &KIND).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("words.db-wal is still here"), "{message}");
    assert!(!path.exists());
}

#[test]
fn a_store_that_vanished_is_refused_until_a_person_says_otherwise() {
    let directory = on_disk();
    created::start(directory.path()).unwrap();
    let path = directory.path().join("words.db");
    drop(open(&path, &KIND).unwrap());
    drop(open(&path, &KIND).unwrap());
    let record = directory.path().join(created::RECORD);
    let text = fs::read_to_string(&record).unwrap();
    assert_eq!(text.lines().filter(|line| *line == "words.db").count(), 1, "{text}");

    fs::remove_file(&path).unwrap();
    let error = open(&path, &KIND).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    assert!(!path.exists());
    drop(open(&directory.path().join("other.db"), &KIND).unwrap());

    fs::write(&record, text.replace("words.db\n", "")).unwrap();
    drop(open(&path, &KIND).unwrap());
}

#[test]
fn a_second_process_is_refused_unless_the_store_is_shared() {
    let (_directory, path) = directory_with_store();
    let first = open(&path, &KIND).unwrap();
    let error = open(&path, &KIND).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error}");
    drop(first);
    let shared = Kind { shared: true, ..KIND };
    let _first = open(&path, &shared).unwrap();
    open(&path, &shared).unwrap();
}

#[test]
fn a_file_that_cannot_be_written_is_refused() {
    let (_directory, path) = directory_with_store();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    // The superuser may write to every file, so a thread of this test gives that up for itself.
    let outcome = std::thread::spawn(move || {
        let mut own = capabilities(None).unwrap();
        own.effective.remove(CapabilitySet::DAC_OVERRIDE);
        set_capabilities(None, own).unwrap();
        open(&path, &KIND).map(|_| ())
    });
    let error = outcome.join().unwrap().unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
}

#[test]
fn a_missing_directory_is_named() {
    let directory = on_disk();
    let error = open(&directory.path().join("missing/words.db"), &KIND).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }), "{error}");
    assert!(error.to_string().contains("missing"), "{error}");
}
