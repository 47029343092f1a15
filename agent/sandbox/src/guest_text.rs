//! Text that a guest has a say in, made fit for logs, messages and terminals.

/// Most characters that are kept.
const MAX_CHARACTERS: usize = 300;

/// The first 300 characters, with control characters shown as escapes.
pub fn printable(text: &str) -> String {
    let mut printable = String::new();
    for c in text.chars().take(MAX_CHARACTERS) {
        if c.is_control() { printable.extend(c.escape_default()) } else { printable.push(c) }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_and_control_characters_are_shown() {
        assert_eq!(printable(&"x".repeat(1 << 20)).len(), MAX_CHARACTERS);
        assert_eq!(printable("a\x1b[2J\n"), "a\\u{1b}[2J\\n");
    }
}
