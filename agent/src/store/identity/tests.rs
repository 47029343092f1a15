use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use tempfile::TempDir;
use zeroize::ZeroizeOnDrop;

use super::*;
use crate::store::testing::{child, child_directory, mode, on_disk, tell_parent};
use protocol::shape::hex_of_bytes;

fn registration(endpoint_id: &str) -> Registration {
    Registration {
        endpoint_id: endpoint_id.to_owned(),
        tenant_id: "tenant \"quoted\"".to_owned(),
        registered_at: "2026-01-02T03:04:05.678Z".to_owned(),
        relay: "https://relay.example:8444/".to_owned(),
    }
}

fn enrolled() -> (TempDir, PathBuf, Identity) {
    let directory = on_disk();
    let path = directory.path().join("identity.json");
    let pending = PendingIdentity::prepare(&path, false).unwrap();
    let identity = pending.enrolled(registration("endpoint")).unwrap();
    (directory, path, identity)
}

/// The seed in all the ways it could be printed.
fn spellings(identity: &Identity) -> Vec<String> {
    let seed = identity.key.to_bytes();
    vec![
        STANDARD.encode(seed),
        URL_SAFE_NO_PAD.encode(seed),
        hex_of_bytes(&seed),
        hex_of_bytes(&seed).to_uppercase(),
        format!("{seed:?}"),
        format!("{seed:x?}"),
        format!("{seed:#?}"),
    ]
}

#[test]
fn an_identity_is_read_as_it_was_saved_and_is_private() {
    let (directory, path, saved) = enrolled();
    let loaded = Identity::load(&path, Some("endpoint")).unwrap();
    let fields = |identity: &Identity| {
        let Identity { endpoint_id, tenant_id, registered_at, relay, .. } = identity;
        [endpoint_id, tenant_id, registered_at, relay].map(Clone::clone)
    };
    assert_eq!(fields(&loaded), fields(&saved));
    assert_eq!(loaded.public_key(), saved.public_key());
    assert_eq!(loaded.key.to_bytes(), saved.key.to_bytes());
    assert_eq!(mode(&path), 0o600);
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn the_key_is_on_disk_before_a_relay_hears_of_it_and_is_taken_again() {
    let directory = on_disk();
    let path = directory.path().join("identity.json");
    let first = PendingIdentity::prepare(&path, false).unwrap().public_key();
    assert_eq!(mode(&pending(&path)), 0o600);
    let again = PendingIdentity::prepare(&path, false).unwrap();
    assert_eq!(again.public_key(), first);
    assert_eq!(again.enrolled(registration("endpoint")).unwrap().into_key().verifying_key(), {
        Identity::load(&path, None).unwrap().key.verifying_key()
    });
    assert!(!pending(&path).exists());
}

#[test]
fn an_identity_is_replaced_only_on_purpose_and_by_another_key() {
    let (_directory, path, identity) = enrolled();
    let error = PendingIdentity::prepare(&path, false).unwrap_err();
    assert_eq!(error, IdentityError::Exists(path.clone()));
    let next = PendingIdentity::prepare(&path, true).unwrap();
    assert_ne!(next.public_key(), identity.public_key());
    assert_eq!(Identity::load(&path, None).unwrap().public_key(), identity.public_key());
    next.enrolled(registration("another")).unwrap();
    Identity::load(&path, Some("another")).unwrap();
}

#[test]
fn an_identity_that_appeared_meanwhile_is_not_replaced() {
    let directory = on_disk();
    let path = directory.path().join("identity.json");
    let late = PendingIdentity::prepare(&path, false).unwrap();
    PendingIdentity::prepare(&path, false).unwrap().enrolled(registration("endpoint")).unwrap();
    let error = late.enrolled(registration("late")).unwrap_err();
    assert_eq!(error, IdentityError::Exists(path.clone()));
    Identity::load(&path, Some("endpoint")).unwrap();
}

#[test]
fn a_pending_key_that_a_crash_left_behind_is_not_used_for_another_identity() {
    let directory = on_disk();
    let path = directory.path().join("identity.json");
    let first = PendingIdentity::prepare(&path, false).unwrap();
    let text = fs::read(pending(&path)).unwrap();
    let identity = first.enrolled(registration("endpoint")).unwrap();
    replace(&pending(&path), &text).unwrap();
    let next = PendingIdentity::prepare(&path, true).unwrap();
    assert_ne!(next.public_key(), identity.public_key());
}

#[test]
fn what_a_relay_says_must_fit_into_the_file() {
    let directory = on_disk();
    let path = directory.path().join("identity.json");
    for endpoint_id in [String::new(), "x".repeat(3000), "\u{1}".repeat(2048)] {
        let key = PendingIdentity::prepare(&path, false).unwrap();
        let enrolled =
            key.enrolled(Registration { endpoint_id: endpoint_id.clone(), ..registration("") });
        assert_eq!(enrolled.is_ok(), endpoint_id.starts_with('\u{1}'), "{}", endpoint_id.len());
        assert_eq!(path.exists(), enrolled.is_ok());
    }
}

#[test]
fn a_damaged_identity_or_key_is_refused_and_left_as_it_is() {
    let (_directory, path, _identity) = enrolled();
    let whole = fs::read(&path).unwrap();
    let half = &whole[..whole.len() / 2];
    fs::write(&path, half).unwrap();
    let error = PendingIdentity::prepare(&path, false).unwrap_err();
    assert!(matches!(error, IdentityError::Malformed { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), half);

    fs::remove_file(&path).unwrap();
    replace(&pending(&path), half).unwrap();
    let error = PendingIdentity::prepare(&path, false).unwrap_err();
    assert!(error.to_string().contains("identity.pending"), "{error}");
    assert_eq!(fs::read(pending(&path)).unwrap(), half);
}

#[test]
fn another_endpoint_is_refused() {
    let (_directory, path, _identity) = enrolled();
    let error = Identity::load(&path, Some("other")).unwrap_err();
    assert!(matches!(error, IdentityError::OtherEndpoint { .. }), "{error}");
}

#[test]
fn files_others_may_read_are_refused_and_a_missing_one_is_named() {
    let (directory, path, _identity) = enrolled();
    for bits in [0o640, 0o604, 0o660] {
        fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
        let message = Identity::load(&path, None).unwrap_err().to_string();
        assert!(message.contains("chmod 600"), "{message}");
    }
    let link = directory.path().join("link.json");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(Identity::load(&link, None), Err(IdentityError::Store(_))));
    let missing = directory.path().join("missing.json");
    let error = Identity::load(&missing, None).unwrap_err();
    assert_eq!(error, IdentityError::Missing(missing));
}

#[test]
fn what_is_no_identity_is_refused_without_repeating_the_seed() {
    let (_directory, path, identity) = enrolled();
    let whole = fs::read_to_string(&path).unwrap();
    let seed = hex_of_bytes(&identity.key.to_bytes());
    let public_key = hex_of_bytes(&identity.public_key());
    let changed = |from: &str, to: &str| {
        let text = whole.replace(from, to);
        assert_ne!(text, whole, "{from}");
        text
    };
    let wrong = [
        (String::new(), "cut off"),
        ("junk".to_owned(), "not JSON"),
        (whole[..whole.len() - 4].to_owned(), "cut off"),
        (changed("\"version\": 1", "\"version\": 2"), "version 2"),
        (changed("\"version\": 1", "\"version\": 2, \"more\": []"), "version 2"),
        (changed("\"version\": 1", "\"version\": 1, \"more\": []"), "unknown"),
        (changed("\"version\": 1", "\"version\": \"1\""), "wrong type"),
        (changed("\"version\": 1,", ""), "missing"),
        (changed("\"version\": 1", "\"version\": 1, \"version\": 1"), "wrong type"),
        (changed("\"endpoint_id\": \"endpoint\",", ""), "missing"),
        (changed("\"endpoint\"", "\"\""), "endpoint_id is empty"),
        (changed("\"endpoint\"", &format!("\"{}\"", "x".repeat(2049))), "endpoint_id is empty"),
        (changed("\"seed\"", "\"sead\""), "unknown"),
        (changed(&format!("\"{seed}\""), &format!("[\"{seed}\"]")), "wrong type"),
        (changed("\"endpoint\"", &format!("[\"{seed}\"]")), "wrong type"),
        (changed("\"version\": 1", &format!("\"version\": \"{seed}\"")), "wrong type"),
        (changed("\"version\": 1", &format!("\"version\": 1, \"{seed}\": 1")), "unknown"),
        (changed(&seed, &seed[1..]), "hex"),
        (changed(&seed, &seed[2..]), "hex"),
        (changed(&seed, &format!("{seed}00")), "hex"),
        (changed(&seed, &"\u{e9}".repeat(32)), "hex"),
        (changed(&seed, &"+1".repeat(32)), "hex"),
        (changed(&seed, ""), "hex"),
        (changed(&seed, &"07".repeat(32)), "public key"),
        (changed(&public_key, &"0".repeat(64)), "public key"),
        (format!("{whole}{whole}"), "not JSON"),
        (" ".repeat(20_000) + &whole, "longer than"),
    ];
    for (text, wanted) in wrong {
        fs::write(&path, &text).unwrap();
        let error = Identity::load(&path, None).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, IdentityError::Malformed { .. }), "{message}");
        assert!(message.contains(wanted), "{wanted} is missing in {message}");
        assert!(message.contains("identity.json"), "{message}");
        for spelling in spellings(&identity) {
            assert!(!message.contains(&spelling), "{message}");
            assert!(!format!("{error:?}").contains(&spelling), "{error:?}");
        }
    }
}

/// Calls of it compile only while there is one way to satisfy it, which is while the type is not
/// `Serialize`.
trait NotSerialize<Witness> {
    fn holds() {}
}

impl<T> NotSerialize<()> for T {}

impl<T: serde::Serialize> NotSerialize<u8> for T {}

fn wiped<T: ZeroizeOnDrop>(_: &T) {}

#[test]
fn the_seed_is_neither_printed_nor_serialised_and_is_wiped() {
    let (_directory, path, identity) = enrolled();
    let pending = PendingIdentity::prepare(&path, true).unwrap();
    let printed = format!("{identity:?} {identity:#?} {pending:?} {pending:#?}");
    assert!(printed.contains("endpoint"));
    for spelling in spellings(&identity) {
        assert!(!printed.contains(&spelling), "{printed}");
    }

    <Identity as NotSerialize<_>>::holds();
    <PendingIdentity as NotSerialize<_>>::holds();

    wiped(&identity.key);
    wiped(&pending.key);
}

#[test]
fn there_is_a_whole_identity_at_any_time() {
    if let Some(directory) = child_directory() {
        enroll_until_killed(&directory);
    }
    let (directory, path, _identity) = enrolled();
    for round in 0..10_u64 {
        let mut child =
            child(module_path!(), "there_is_a_whole_identity_at_any_time", directory.path())
                .stderr(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let confirmed = said.next().unwrap().unwrap();
        std::thread::sleep(Duration::from_micros(round * 7919 % 10_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = Identity::load(&path, Some("endpoint")).unwrap();
        let number = |text: &str| text.parse::<u64>().unwrap();
        assert!(number(&found.registered_at) >= number(&confirmed));
    }
}

fn enroll_until_killed(directory: &Path) -> ! {
    let path = directory.join("identity.json");
    for number in 1_u64.. {
        let registered_at = number.to_string();
        let next = PendingIdentity::prepare(&path, true).unwrap();
        next.enrolled(Registration {
            registered_at: registered_at.clone(),
            ..registration("endpoint")
        })
        .unwrap();
        tell_parent(&registered_at);
    }
    unreachable!()
}
