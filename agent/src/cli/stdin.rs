//! Reading standard input, up to a limit.

use std::io::{self, IsTerminal, Read};

use thiserror::Error;

use super::terminal;

/// Why there is nothing to work on.
#[derive(Debug, Error)]
pub enum StdinError {
    /// More than the limit, which is given in bytes.
    #[error("standard input holds more than {0} bytes")]
    TooLarge(usize),
    /// Bytes that are no text.
    #[error("standard input is not UTF-8 text")]
    NotText,
    /// It cannot be read.
    #[error("standard input cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// All of standard input, at most `limit` bytes.
pub fn text(limit: usize) -> Result<String, StdinError> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        terminal::say(&"reading from the terminal; end with Ctrl-D");
    }
    bounded(stdin.lock(), limit)
}

fn bounded(input: impl Read, limit: usize) -> Result<String, StdinError> {
    let mut bytes = Vec::new();
    input.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(StdinError::TooLarge(limit));
    }
    String::from_utf8(bytes).map_err(|_| StdinError::NotText)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_is_read() {
        assert_eq!(bounded(&b"abc"[..], 3).unwrap(), "abc");
        assert!(matches!(bounded(&b"abcd"[..], 3), Err(StdinError::TooLarge(3))));
        assert!(matches!(bounded(io::repeat(b'a'), 1000), Err(StdinError::TooLarge(1000))));
        assert!(matches!(bounded(&b"\xff"[..], 3), Err(StdinError::NotText)));
    }
}
