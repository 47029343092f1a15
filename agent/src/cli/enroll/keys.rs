//! The tenant's key, in the file of keys.

use std::fs;
use std::io;

use ed25519_dalek::VerifyingKey;

use crate::store::{StateDir, StoreError};
use protocol::keyring::{KeyRing, KeyRingError, SigningKeyEntry};

/// Why the key is not in the file.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("{file} cannot be read: {error}")]
    Read {
        /// The file.
        file: String,
        /// Why not.
        error: io::Error,
    },
    /// The file, or what would become of it, is no key ring.
    #[error("{file} would not be sound: {error}")]
    Ring {
        /// The file.
        file: String,
        /// Why not.
        error: KeyRingError,
    },
    /// The id belongs to another key.
    #[error("{file} has another key called {id}; --force replaces it")]
    Other {
        /// The file.
        file: String,
        /// The id.
        id: String,
    },
    /// The id was revoked.
    #[error("{file} lists {id} as revoked; take it off that list first")]
    Revoked {
        /// The file.
        file: String,
        /// The id.
        id: String,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Adds a key. What else is in the file stays as it is, remarks included, unless another key of the
/// same id has to be `replaced`.
pub fn add(state: &StateDir, id: &str, key: VerifyingKey, replaced: bool) -> Result<(), KeysError> {
    let file = state.keys().display().to_string();
    let text = read(state).map_err(|error| KeysError::Read { file: file.clone(), error })?;
    let ring_error = |error| KeysError::Ring { file: file.clone(), error };
    let ring = KeyRing::from_toml(&text).map_err(ring_error)?;
    if ring.revoked().any(|revoked| revoked == id) {
        return Err(KeysError::Revoked { file, id: id.to_owned() });
    }
    let entry = SigningKeyEntry { id: id.to_owned(), key, not_before: None, not_after: None };
    let same_id: Vec<_> = ring.keys().iter().filter(|entry| entry.id == id).collect();
    if same_id.iter().any(|known| known.key == key) {
        return Ok(());
    }
    let text = if same_id.is_empty() {
        let added = KeyRing::new(vec![entry], []).map_err(ring_error)?.to_toml();
        // Its first line is the empty list of revoked ids, which belongs above all keys.
        let table = added.split_once('\n').map_or("", |(_, table)| table);
        let start = if text.is_empty() { "revoked = []\n" } else { "" };
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        format!("{start}{text}{end}{table}")
    } else if replaced {
        let others = ring.keys().iter().filter(|entry| entry.id != id).cloned();
        let keys = others.chain([entry]).collect();
        let revoked: Vec<_> = ring.revoked().map(str::to_owned).collect();
        KeyRing::new(keys, revoked).map_err(ring_error)?.to_toml()
    } else {
        return Err(KeysError::Other { file, id: id.to_owned() });
    };
    KeyRing::from_toml(&text).map_err(ring_error)?;
    state.write_keys(&text)?;
    Ok(())
}

/// Whether there is any key.
pub fn any(state: &StateDir) -> bool {
    let ring = read(state).ok().and_then(|text| KeyRing::from_toml(&text).ok());
    ring.is_some_and(|ring| !ring.keys().is_empty())
}

fn read(state: &StateDir) -> io::Result<String> {
    match fs::read_to_string(state.keys()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use ed25519_dalek::SigningKey;

    use super::*;
    use protocol::Timestamp;

    fn key(number: u8) -> VerifyingKey {
        SigningKey::from_bytes(&[number; 32]).verifying_key()
    }

    fn state() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("state")).unwrap();
        (dir, state)
    }

    fn found(state: &StateDir, id: &str) -> Option<VerifyingKey> {
        let ring = KeyRing::from_toml(&read(state).unwrap()).unwrap();
        ring.find(id, Timestamp::now()).ok().copied()
    }

    #[test]
    fn keys_are_added_beside_what_is_there() {
        let (_dir, state) = state();
        assert!(!any(&state));
        add(&state, "t/key-v1", key(1), false).unwrap();
        assert!(any(&state));
        let mode = fs::metadata(state.keys()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let remark = "# Rotated in spring.";
        let text = format!("{}\n{remark}", read(&state).unwrap());
        fs::write(state.keys(), &text).unwrap();
        add(&state, "t/key-v2", key(2), false).unwrap();
        add(&state, "t/key-v2", key(2), false).unwrap();
        assert_eq!(found(&state, "t/key-v1"), Some(key(1)));
        assert_eq!(found(&state, "t/key-v2"), Some(key(2)));
        assert!(read(&state).unwrap().starts_with(&text));
    }

    #[test]
    fn a_known_id_changes_its_key_only_by_force_and_a_revoked_one_never() {
        let (_dir, state) = state();
        add(&state, "a", key(1), false).unwrap();
        add(&state, "b", key(2), false).unwrap();
        assert!(matches!(add(&state, "a", key(3), false), Err(KeysError::Other { .. })));
        assert_eq!(found(&state, "a"), Some(key(1)));
        add(&state, "a", key(3), true).unwrap();
        assert_eq!((found(&state, "a"), found(&state, "b")), (Some(key(3)), Some(key(2))));
        let text = read(&state).unwrap().replace("revoked = []", "revoked = [\"c\"]");
        fs::write(state.keys(), text).unwrap();
        assert!(matches!(add(&state, "c", key(4), true), Err(KeysError::Revoked { .. })));
    }

    #[test]
    fn a_file_that_is_no_key_ring_is_left_alone() {
        let (_dir, state) = state();
        fs::write(state.keys(), "key = 7").unwrap();
        assert!(matches!(add(&state, "a", key(1), true), Err(KeysError::Ring { .. })));
        assert_eq!(read(&state).unwrap(), "key = 7");
    }
}
