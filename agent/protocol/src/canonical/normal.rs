//! The normal form of strings and objects.

use std::borrow::Cow;
use std::cmp::Ordering;

use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::{CanonicalError, Json};

/// Characters of a key that an error repeats.
const KEY_IN_ERROR: usize = 64;

/// Text in NFC. ASCII, the common case, is found to be so without a look at any table.
pub fn nfc(text: Cow<'_, str>) -> String {
    if text.is_ascii() || is_nfc(&text) { text.into_owned() } else { text.nfc().collect() }
}

/// A number in normal form: there is one zero.
pub fn number(number: f64) -> Json {
    Json::Number(if number == 0.0 { 0.0 } else { number })
}

/// Sorts entries whose keys are NFC already, and refuses keys that occur twice.
pub fn object(mut entries: Vec<(String, Json)>) -> Result<Json, CanonicalError> {
    entries.sort_unstable_by(|(a, _), (b, _)| utf16_order(a, b));
    for pair in entries.windows(2) {
        if let [(a, _), (b, _)] = pair
            && a == b
        {
            return Err(CanonicalError::DuplicateKey(a.chars().take(KEY_IN_ERROR).collect()));
        }
    }
    Ok(Json::Object(entries))
}

/// RFC 8785 3.2.3. Differs from the order of code points where one key has a character beyond
/// U+FFFF and the other one from U+E000 up.
fn utf16_order(a: &str, b: &str) -> Ordering {
    if a.is_ascii() && b.is_ascii() { a.cmp(b) } else { a.encode_utf16().cmp(b.encode_utf16()) }
}
