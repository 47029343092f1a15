//! Small forms that fields of messages have.

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

/// The start of a foreign text, for a message to a person.
pub fn start_of(text: &str) -> String {
    text.chars().take(IN_MESSAGE).collect()
}
