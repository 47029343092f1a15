//! Texts that say what is wrong, often by quoting what the peer sent.

/// Longest text, in bytes.
const MAX_BYTES: usize = 1024;

/// The text, or its beginning when it is long: what quotes a large frame must not become a frame
/// too large to be sent.
pub fn shorten(mut text: String) -> String {
    if text.len() > MAX_BYTES {
        let end = (0..=MAX_BYTES).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_texts_are_cut_and_never_inside_a_character() {
        let fits = "x".repeat(MAX_BYTES);
        assert_eq!(shorten(fits.clone()), fits);
        let long = format!("{}é tail", "x".repeat(MAX_BYTES - 1));
        assert_eq!(shorten(long), format!("{}…", "x".repeat(MAX_BYTES - 1)));
    }
}
