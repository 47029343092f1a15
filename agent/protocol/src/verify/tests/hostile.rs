//! Arbitrary text, and good envelopes with arbitrary damage.

use proptest::collection::vec;
use proptest::prelude::*;

use super::sample::{Sample, check};
use super::*;

/// Text that is nearly JSON more often than not.
fn nearly_json() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        "[\\[\\]{},:\" \\\\]",
        Just("\"command_id\":".to_owned()),
        Just("\"type\":\"CommandEnvelope\"".to_owned()),
        Just("\\ud800".to_owned()),
        Just("e\u{301}".to_owned()),
        Just("null".to_owned()),
        "-?[0-9]{1,30}(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?",
        any::<String>(),
    ];
    vec(token, 0..40).prop_map(|tokens| tokens.concat())
}

proptest! {
    #[test]
    fn no_text_is_taken_or_panics(text in prop_oneof![any::<String>(), nearly_json()]) {
        let refusal = check(&text).unwrap_err();
        prop_assert!(refusal.check <= Check::Schema);
        prop_assert!(refusal.message.len() < 2048);
    }

    /// One byte of the text changed: refused, or still saying the same.
    #[test]
    fn no_damage_changes_what_is_taken(at in any::<prop::sample::Index>(), byte in 0_u8..0x80) {
        let signed = Sample::new().signed();
        let mut text = signed.clone().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let text = String::from_utf8(text).unwrap();
        if let Ok(envelope) = check(&text) {
            prop_assert_eq!(envelope, check(&signed).unwrap());
        }
    }

    #[test]
    fn no_part_of_an_envelope_is_one(at in any::<prop::sample::Index>()) {
        let signed = Sample::new().signed();
        let at = at.index(signed.len());
        prop_assert!(check(&signed[..at]).is_err());
    }
}
