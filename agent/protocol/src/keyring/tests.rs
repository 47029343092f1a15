use ed25519_dalek::SigningKey;

use super::*;

const HEX: &str = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8";

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn key(seed: u8) -> VerifyingKey {
    SigningKey::from_bytes(&[seed; 32]).verifying_key()
}

fn entry(id: &str, seed: u8, first: Option<&str>, last: Option<&str>) -> SigningKeyEntry {
    SigningKeyEntry {
        id: id.into(),
        key: key(seed),
        not_before: first.map(at),
        not_after: last.map(at),
    }
}

#[test]
fn a_file_is_read_and_written() {
    let text = format!(
        "revoked = ['t/key-v0']\n[[key]]\nid = 't/key-v1'\npublic_key = '{HEX}'\n\
         not_before = '2026-01-01T00:00:00Z'\nnot_after = 2026-07-01T00:00:00Z\n\
         [[key]]\nid = 'odd \"id\" \\ \u{e9}'\npublic_key = '{}'\n",
        hex_of_bytes(key(2).as_bytes()).to_uppercase()
    );
    let ring = KeyRing::from_toml(&text).unwrap();
    let [first, second] = ring.keys() else { panic!("{ring:?}") };
    assert_eq!(hex_of_bytes(first.key.as_bytes()), HEX);
    assert_eq!(first.not_before, Some(at("2026-01-01T00:00:00Z")));
    assert_eq!(first.not_after, Some(at("2026-07-01T00:00:00Z")));
    assert_eq!((second.key, second.not_before, second.not_after), (key(2), None, None));
    assert_eq!(ring.revoked().collect::<Vec<_>>(), ["t/key-v0"]);
    assert_eq!(KeyRing::from_toml(&ring.to_toml()), Ok(ring));
    assert_eq!(KeyRing::from_toml(""), Ok(KeyRing::default()));
    assert_eq!(KeyRing::from_toml(&KeyRing::default().to_toml()), Ok(KeyRing::default()));
}

#[test]
fn a_bad_file_is_refused_by_name() {
    let of = |body: &str| KeyRing::from_toml(&format!("[[key]]\nid = 'a'\n{body}")).unwrap_err();
    let good = format!("public_key = '{HEX}'\n");
    let id = || "a".to_owned();
    assert_eq!(of("public_key = 'ab'"), KeyRingError::PublicKey { id: id() });
    let weak = format!("public_key = '01{}'", "00".repeat(31));
    assert_eq!(of(&weak), KeyRingError::PublicKey { id: id() });
    assert_eq!(of(&format!("{good}revoked = ['b']")), KeyRingError::RevokedBelowKey);
    for value in ["'tomorrow'", "5", "2026-01-01", "2026-01-01T00:00:00"] {
        let error = of(&format!("{good}not_before = {value}"));
        assert_eq!(error, KeyRingError::Time { id: id(), field: "not_before" }, "{value}");
    }
    let window = "not_before = 2026-01-02T00:00:00Z\nnot_after = 2026-01-01T00:00:00Z";
    assert_eq!(of(&format!("{good}{window}")), KeyRingError::NeverValid { id: id() });
    let twice = format!("{good}[[key]]\nid = 'a'\n{good}");
    assert_eq!(of(&twice), KeyRingError::Twice { id: id() });
    let empty = KeyRing::from_toml(&format!("[[key]]\nid = ''\n{good}"));
    assert_eq!(empty, Err(KeyRingError::EmptyId));
    assert!(matches!(of(&format!("{good}extra = 1")), KeyRingError::Form(_)));
    assert!(matches!(of(""), KeyRingError::Form(_)));
    assert!(matches!(KeyRing::from_toml("keys = []"), Err(KeyRingError::Form(_))));
    assert!(matches!(KeyRing::from_toml("[[key]"), Err(KeyRingError::Form(_))));
}

#[test]
fn a_key_that_any_signature_fits_is_no_key() {
    let mut identity = [0; 32];
    identity[0] = 1;
    assert_eq!(public_key_of_hex(&hex_of_bytes(&identity)), None);
    let key = VerifyingKey::from_bytes(&identity).unwrap();
    let entry = SigningKeyEntry { id: "a".into(), key, not_before: None, not_after: None };
    let refused = KeyRing::new(vec![entry], []);
    assert_eq!(refused, Err(KeyRingError::PublicKey { id: "a".into() }));
}

#[test]
fn a_key_is_good_in_its_window_only_both_ends_included() {
    let (first, last) = ("2026-01-02T00:00:00.000Z", "2026-01-03T00:00:00.000Z");
    let ring = KeyRing::new(vec![entry("a", 1, Some(first), Some(last))], []).unwrap();
    let find = |now: Timestamp| ring.find("a", now).copied();
    assert_eq!(find(at(first).plus_millis(-1)), Err(KeyProblem::NotYetValid));
    assert_eq!(find(at(first)), Ok(key(1)));
    assert_eq!(find(at(last)), Ok(key(1)));
    assert_eq!(find(at(last).plus_millis(1)), Err(KeyProblem::NoLongerValid));
    assert_eq!(ring.find("b", at(first)), Err(KeyProblem::Unknown));
}

#[test]
fn revocation_outranks_everything() {
    let revoked = ["a".to_owned(), "gone".to_owned()];
    let ring = KeyRing::new(vec![entry("a", 1, None, None)], revoked).unwrap();
    let now = at("2026-01-01T00:00:00Z");
    assert_eq!(ring.find("a", now), Err(KeyProblem::Revoked));
    assert_eq!(ring.find("gone", now), Err(KeyProblem::Revoked));
}

#[test]
fn keys_overlap_on_rotation_under_two_ids_or_one() {
    let keys = vec![
        entry("v1", 1, None, Some("2026-01-03T00:00:00Z")),
        entry("v2", 2, Some("2026-01-02T00:00:00Z"), None),
        entry("same", 3, None, Some("2026-01-03T00:00:00Z")),
        entry("same", 4, Some("2026-01-02T00:00:00Z"), None),
    ];
    let ring = KeyRing::new(keys, []).unwrap();
    let all = |id: &str, now: &str| -> Result<Vec<VerifyingKey>, KeyProblem> {
        let (first, others) = ring.find_all(id, at(now))?;
        Ok(std::iter::once(first).chain(others).copied().collect())
    };
    let (before, during, after) =
        ("2026-01-01T00:00:00Z", "2026-01-02T12:00:00Z", "2026-01-04T00:00:00Z");
    assert_eq!(all("v1", during), Ok(vec![key(1)]));
    assert_eq!(all("v2", during), Ok(vec![key(2)]));
    assert_eq!(all("v1", after), Err(KeyProblem::NoLongerValid));
    assert_eq!(all("v2", before), Err(KeyProblem::NotYetValid));
    assert_eq!(all("same", before), Ok(vec![key(3)]));
    assert_eq!(all("same", during), Ok(vec![key(3), key(4)]));
    assert_eq!(all("same", after), Ok(vec![key(4)]));
}
