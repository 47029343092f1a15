//! A result's streams beside the output that the evidence holds. A result carries a stream whole, or
//! its beginning with the marks `NAME_truncated` and `NAME_total_bytes`, as text or as base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocol::canonical_bytes;
use serde_json::{Map, Value};
use unicode_normalization::UnicodeNormalization;

/// What is wrong with the stream `name` of a payload, of which the evidence holds `written`.
pub(super) fn check_stream(
    payload: &Map<String, Value>,
    name: &str,
    written: &[u8],
) -> Result<(), String> {
    let get = |mark: &str| payload.get(&format!("{name}_{mark}"));
    let is_cut = get("truncated").is_some();
    if get("truncated").is_some_and(|mark| mark != &Value::Bool(true)) {
        return Err(format!("its {name}_truncated is not true"));
    }
    // The guest keeps less than a tool wrote when that is longer than the tool may write.
    let total = get("total_bytes").map(Value::as_u64);
    if total.is_some() != is_cut || total.is_some_and(|t| t < Some(written.len() as u64)) {
        return Err(format!("its {name}_total_bytes is not that of the chunks"));
    }
    let differs = || format!("its {name} is not what the chunks hold");
    let text = payload.get(name).and_then(Value::as_str).ok_or_else(differs)?;
    let same = match get("base64") {
        Some(encoded) => {
            let bytes = encoded.as_str().and_then(|base64| STANDARD.decode(base64).ok());
            let bytes = bytes.ok_or_else(differs)?;
            let same = if is_cut { written.starts_with(&bytes) } else { written == bytes };
            // Earlier versions sent the text beside it, with replacement characters.
            same && (text.is_empty() || is_text_of(text, &bytes, false))
        }
        None => is_text_of(text, written, is_cut),
    };
    if same { Ok(()) } else { Err(differs()) }
}

/// Whether `told` is the text of `written`, or of a beginning of it. Strings are compared in their
/// normal form, as that is what a signature of them holds.
fn is_text_of(told: &str, written: &[u8], is_cut: bool) -> bool {
    let all = String::from_utf8_lossy(written);
    let beginning = if is_cut { beginning_as_long_as(told, &all) } else { Some(&*all) };
    beginning.is_some_and(|text| canonical_bytes(&text).ok() == canonical_bytes(&told).ok())
}

/// The beginning of `all` that has as many characters as `told` when both are decomposed. No other
/// beginning can have the same normal form.
fn beginning_as_long_as<'a>(told: &str, all: &'a str) -> Option<&'a str> {
    let wanted = told.nfd().count();
    let mut count = 0_usize;
    let mut ends = all.char_indices().map(|(at, c)| (at, std::iter::once(c).nfd().count()));
    while count < wanted {
        count = count.saturating_add(ends.next()?.1);
    }
    let end = ends.next().map_or(all.len(), |(at, _)| at);
    (count == wanted).then(|| &all[..end])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(payload: Value, written: &[u8]) -> Result<(), String> {
        let Value::Object(payload) = payload else { unreachable!() };
        check_stream(&payload, "stdout", written)
    }

    #[test]
    fn a_whole_stream_is_the_chunks_and_a_cut_one_their_beginning() {
        check(json!({"stdout": "hello"}), b"hello").unwrap();
        check(json!({"stdout": "h\u{fffd}"}), b"h\xff").unwrap();
        check(json!({"stdout": "", "stdout_base64": "/w=="}), b"\xff").unwrap();
        check(json!({"stdout": "\u{fffd}", "stdout_base64": "/w=="}), b"\xff").unwrap();
        let cut = |text: &str, total: u64| json!({"stdout": text, "stdout_truncated": true, "stdout_total_bytes": total});
        check(cut("hel", 5), b"hello").unwrap();
        check(cut("hello", 900), b"hello").unwrap();
        check(cut("", 5), b"hello").unwrap();
        let bytes = json!({"stdout": "", "stdout_base64": "/w==", "stdout_truncated": true, "stdout_total_bytes": 2});
        check(bytes, b"\xff\xfe").unwrap();
    }

    #[test]
    fn what_is_not_the_chunks_is_refused() {
        for (payload, written) in [
            (json!({}), &b""[..]),
            (json!({"stdout": "hel"}), b"hello"),
            (json!({"stdout": "hello!"}), b"hello"),
            (json!({"stdout": 5}), b"5"),
            (json!({"stdout": "", "stdout_base64": "/w"}), b"\xff"),
            (json!({"stdout": "", "stdout_base64": "/g=="}), b"\xff"),
            (json!({"stdout": "x", "stdout_base64": "/w=="}), b"\xff"),
            (json!({"stdout": "hel", "stdout_truncated": true}), b"hello"),
            (json!({"stdout": "hello", "stdout_total_bytes": 5}), b"hello"),
            (
                json!({"stdout": "hel", "stdout_truncated": false, "stdout_total_bytes": 5}),
                b"hello",
            ),
            (json!({"stdout": "hel", "stdout_truncated": true, "stdout_total_bytes": 4}), b"hello"),
            (json!({"stdout": "hex", "stdout_truncated": true, "stdout_total_bytes": 5}), b"hello"),
            (
                json!({"stdout": "hello, you", "stdout_truncated": true, "stdout_total_bytes": 50}),
                b"hello",
            ),
        ] {
            assert!(check(payload.clone(), written).is_err(), "{payload} {written:?}");
        }
    }

    proptest! {
        #[test]
        fn every_beginning_is_found_in_its_normal_form(
            text in "[ae\u{301}\u{327}\u{e9}\u{1e09}\u{ac00}\u{1100}\u{1161} ]{0,12}",
            chars in 0_usize..13,
        ) {
            let beginning: String = text.chars().take(chars).collect();
            for told in [beginning.clone(), beginning.nfc().collect()] {
                prop_assert!(is_text_of(&told, text.as_bytes(), true), "{told:?} of {text:?}");
            }
            let other = format!("{beginning}#");
            prop_assert!(!is_text_of(&other, text.as_bytes(), true));
        }
    }
}
