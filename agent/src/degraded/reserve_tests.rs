//! The latch where no file can be made.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::tests::incident;
use super::*;

/// No new file takes the latch's name in this directory, as on a full disk.
fn no_new_files(state: &Path) {
    fs::create_dir(state.join(".degraded.json.new")).unwrap();
    replace_fails(state);
}

fn replace_fails(state: &Path) {
    crate::store::replace_durably(&IncidentRecord::path(state), b"x").unwrap_err();
}

fn reserve_of(state: &Path) -> PathBuf {
    state.join("degraded.reserve")
}

fn is_reserved(state: &Path) -> bool {
    fs::metadata(reserve_of(state))
        .is_ok_and(|found| found.len() == MAX_RECORD_BYTES && found.blocks() * 512 >= found.len())
}

#[test]
fn the_latch_needs_no_room_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let degraded = DegradedMode::open(dir.path());
    assert!(is_reserved(dir.path()));
    no_new_files(dir.path());
    degraded.halt(&incident(7, Some("one")));
    degraded.halt(&incident(8, Some("two")));
    assert!(!reserve_of(dir.path()).exists());

    let after_restart = DegradedMode::open(dir.path()).current().unwrap();
    assert_eq!(after_restart, degraded.current().unwrap());
    assert_eq!(after_restart.command_id.as_deref(), Some("one"));
    assert_eq!(after_restart.further_incidents, 1);
}

#[test]
fn without_a_reserve_a_full_disk_keeps_the_latch_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let degraded = DegradedMode::open(dir.path());
    fs::remove_file(reserve_of(dir.path())).unwrap();
    no_new_files(dir.path());
    degraded.halt(&incident(7, None));
    assert!(degraded.current().is_some());
    assert!(IncidentRecord::load(dir.path()).is_none());
}

#[test]
fn a_reserve_alone_is_no_latch_and_under_the_latchs_name_it_is_one() {
    let dir = tempfile::tempdir().unwrap();
    assert!(DegradedMode::open(dir.path()).current().is_none());
    assert!(DegradedMode::open(dir.path()).current().is_none(), "nor after a restart");
    // A crash after the new name, before the record.
    fs::rename(reserve_of(dir.path()), IncidentRecord::path(dir.path())).unwrap();
    assert!(DegradedMode::open(dir.path()).current().is_some());
    assert!(!reserve_of(dir.path()).exists(), "a degraded agent needs none");
}

#[test]
fn a_reserve_that_is_none_is_made_again() {
    let short = |path: &Path| fs::write(path, "short").unwrap();
    let sparse = |path: &Path| {
        fs::File::create(path).unwrap().set_len(MAX_RECORD_BYTES).unwrap();
    };
    let link = |path: &Path| std::os::unix::fs::symlink("/dev/null", path).unwrap();
    for spoil in [&short as &dyn Fn(&Path), &sparse, &link] {
        let dir = tempfile::tempdir().unwrap();
        spoil(&reserve_of(dir.path()));
        assert!(!is_reserved(dir.path()));
        DegradedMode::open(dir.path());
        assert!(is_reserved(dir.path()));
        assert!(fs::symlink_metadata(reserve_of(dir.path())).unwrap().is_file());
    }
}

#[test]
fn room_is_reserved_again_once_degraded_mode_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let degraded = DegradedMode::open(dir.path());
    degraded.halt(&incident(1, None));
    assert!(!reserve_of(dir.path()).exists());
    degraded.clear(&degraded.current().unwrap()).unwrap();
    assert!(is_reserved(dir.path()));
}

#[test]
fn a_reserve_that_cannot_be_made_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    // In the way of the file that becomes the reserve.
    let in_the_way = dir.path().join(".degraded.reserve.new");
    fs::create_dir(&in_the_way).unwrap();
    let degraded = DegradedMode::open(dir.path());
    assert!(!is_reserved(dir.path()));
    fs::remove_dir(in_the_way).unwrap();
    degraded.take_news();
    assert!(is_reserved(dir.path()));
}
