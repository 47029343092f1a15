use std::os::unix::fs::symlink;

use super::*;
use crate::store::testing::mode;

#[test]
fn a_new_directory_is_private_and_has_a_record() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("state");
    let state = StateDir::open(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join(LOCK)), 0o600);
    assert_eq!(mode(&path.join(RECORD)), 0o600);
    assert_eq!(mode(&state.evidence().unwrap()), 0o700);
    assert_eq!(state.nonces(), path.canonicalize().unwrap().join("nonces.db"));
}

#[test]
fn a_second_agent_is_refused_and_told_who_has_it() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("state");
    let first = StateDir::open(&path).unwrap();
    let link = parent.path().join("link");
    symlink(&path, &link).unwrap();
    for path in [&path, &link] {
        let error = StateDir::open(path).unwrap_err();
        assert!(
            matches!(error, StateDirError::InUse { pid: Some(pid), .. } if pid == std::process::id()),
            "{error}"
        );
    }
    drop(first);
    StateDir::open(&path).unwrap();
}

#[test]
fn a_directory_others_may_use_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("state");
    drop(StateDir::open(&path).unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
    let message = StateDir::open(&path).unwrap_err().to_string();
    assert!(message.contains("chmod 700"), "{message}");
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(StateDir::open(&file).is_err());
}

#[test]
fn a_directory_in_use_without_its_record_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("state");
    drop(StateDir::open(&path).unwrap());
    fs::remove_file(path.join(RECORD)).unwrap();
    drop(StateDir::open(&path).unwrap());
    assert!(path.join(RECORD).exists(), "nothing was in use yet");

    fs::remove_file(path.join(RECORD)).unwrap();
    fs::write(path.join(IDENTITY), "{}").unwrap();
    let error = StateDir::open(&path).unwrap_err();
    assert!(matches!(error, StateDirError::NoRecord { .. }), "{error}");
    assert!(!path.join(RECORD).exists());
}
