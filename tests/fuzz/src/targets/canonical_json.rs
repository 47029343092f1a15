//! Canonical JSON: the same answer, taken or refused, from two implementations that share nothing.

use protocol::canonical::{Json, canonical_bytes, check_keys};

use crate::second_canonical;

pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let ours = Json::parse(text);
    let second = second_canonical::canonical(text);
    let Ok(json) = ours else {
        assert_eq!(second, None, "refused here: {ours:?}");
        return;
    };
    let bytes = json.canonical();
    assert_eq!(Some(String::from_utf8_lossy(&bytes).into_owned()), second);
    let again = Json::parse(std::str::from_utf8(&bytes).unwrap()).unwrap();
    assert_eq!(again.canonical(), bytes, "canonical bytes are their own canonical form");
    let value = json.to_value();
    check_keys(&value).unwrap();
    assert_eq!(canonical_bytes(&value).unwrap(), bytes);
    assert_eq!(Json::from_value(&value).unwrap(), json);
}
