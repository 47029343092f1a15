//! A tool's output is bytes; JSON is text. Nothing may get lost in between.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::wire::Encoding;

/// First byte of an evidence chunk with output.
pub const STDOUT_TAG: u8 = 1;
/// First byte of an evidence chunk with error output.
pub const STDERR_TAG: u8 = 2;

/// Bytes as text: as they are when they are UTF-8 and JSON would not blow them up beyond what
/// base64 takes, in base64 otherwise.
pub fn encode(bytes: Vec<u8>) -> (String, Encoding) {
    match String::from_utf8(bytes) {
        Ok(text) if json_length(&text) <= base64_length(text.len()) => (text, Encoding::Utf8),
        Ok(text) => (STANDARD.encode(text), Encoding::Base64),
        Err(e) => (STANDARD.encode(e.as_bytes()), Encoding::Base64),
    }
}

/// The bytes `text` stands for.
pub fn decode(text: String, encoding: Encoding) -> Result<Vec<u8>, base64::DecodeError> {
    match encoding {
        Encoding::Utf8 => Ok(text.into_bytes()),
        Encoding::Base64 => STANDARD.decode(text),
    }
}

fn base64_length(bytes: usize) -> usize {
    // Short texts are for people to read: give them room for some escapes.
    (bytes.div_ceil(3) * 4).max(64)
}

/// Length inside a JSON string (RFC 8259, section 7, with short escapes).
fn json_length(text: &str) -> usize {
    text.bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | 0x08 | 0x09 | 0x0a | 0x0c | 0x0d => 2,
            0..0x20 => 6,
            _ => 1,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_stays_text_and_the_rest_becomes_base64() {
        assert_eq!(encode(b"hello\n".to_vec()), ("hello\n".into(), Encoding::Utf8));
        assert_eq!(encode(b"\xff\x00".to_vec()), ("/wA=".into(), Encoding::Base64));
        assert_eq!(encode(vec![0; 1000]).1, Encoding::Base64);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (text, encoding) = encode(bytes.clone());
            prop_assert_eq!(decode(text, encoding).unwrap(), bytes);
        }

        #[test]
        fn json_never_grows_beyond_base64(
            bytes in proptest::collection::vec(prop_oneof![Just(0_u8), Just(b'"'), any::<u8>()], 64..300),
        ) {
            let limit = base64_length(bytes.len()) + 2;
            let (text, _) = encode(bytes);
            prop_assert!(serde_json::to_string(&text).unwrap().len() <= limit);
        }
    }
}
