//! Small forms that fields of messages have.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Characters of a foreign text that a message repeats.
const IN_MESSAGE: usize = 128;

/// Whether the text is a UUID in its hyphenated form, of any version and either case.
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Whether the text is 32 bytes in base64url without padding, in the one spelling they have.
pub fn is_nonce(text: &str) -> bool {
    URL_SAFE_NO_PAD.decode_slice(text, &mut [0; 33]) == Ok(32)
}

/// The 64 bytes of standard base64. The padding may be missing as a whole.
pub fn signature_of_base64(text: &str) -> Option<[u8; 64]> {
    let digits = text.strip_suffix("==").unwrap_or(text);
    let mut bytes = [0; 66];
    let length = STANDARD_NO_PAD.decode_slice(digits, &mut bytes).ok()?;
    bytes.get(..length)?.try_into().ok()
}

/// The start of a foreign text, for a message to a person.
pub fn start_of(text: &str) -> String {
    text.chars().take(IN_MESSAGE).collect()
}

/// Bytes of exactly as many hex digits, of either case.
pub fn bytes_of_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<u8>> = pairs
        .iter()
        .map(|pair| {
            let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
            u8::try_from(high? << 4 | low?).ok()
        })
        .collect();
    bytes.filter(|_| rest.is_empty())?.try_into().ok()
}

/// Lower-case hex digits.
pub fn hex_of_bytes(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 0xf)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

#[cfg(test)]
mod tests;
