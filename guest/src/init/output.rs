//! One output stream of a tool: kept up to a limit, counted beyond it.

use std::fs::File;
use std::io::{ErrorKind, Read};

use guest::output;
use guest::wire::Encoding;

use super::defence::Defence;

/// Leaves room for the tag in a chunk of 64 KiB.
const READ_BYTES: usize = (64 << 10) - 1;

/// The reading end of a pipe and what came out of it.
pub struct Stream {
    pipe: File,
    tag: u8,
    kept: Vec<u8>,
    limit: usize,
    total: u64,
    pub ended: bool,
}

/// What a read brought.
pub enum Progress {
    /// A chunk for the evidence: tag and bytes.
    Chunk(Vec<u8>),
    /// Bytes beyond the limit.
    Dropped,
    /// Nothing now.
    Empty,
    /// The end.
    End,
}

/// A stream as a result carries it.
pub struct Captured {
    pub text: String,
    pub encoding: Encoding,
    pub bytes: u64,
    pub truncated: bool,
}

impl Stream {
    pub fn new(pipe: File, tag: u8, limit: u64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { pipe, tag, kept: Vec::new(), limit, total: 0, ended: false }
    }

    pub fn pipe(&self) -> &File {
        &self.pipe
    }

    /// Bytes kept so far.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Reads once and keeps at most `room` bytes of it, whatever the stream's own limit is.
    pub fn read(&mut self, room: usize) -> Progress {
        let mut buffer = vec![0; READ_BYTES];
        match self.pipe.read(&mut buffer) {
            Ok(0) => {
                self.ended = true;
                Progress::End
            }
            Ok(count) => {
                // What came after a gap must not look as if it followed.
                let own = if self.is_cut() { 0 } else { self.limit - self.kept.len() };
                let room = own.min(room);
                let new = buffer.get(..count.min(room)).unwrap_or_default();
                self.total = self.total.saturating_add(count as u64);
                if new.is_empty() {
                    return Progress::Dropped;
                }
                self.kept.extend_from_slice(new);
                let mut chunk = Vec::with_capacity(1 + new.len());
                chunk.push(self.tag);
                chunk.extend_from_slice(new);
                Progress::Chunk(chunk)
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => Progress::Dropped,
            Err(_) => Progress::Empty,
        }
    }

    /// Something was dropped.
    fn is_cut(&self) -> bool {
        self.total > self.kept.len() as u64
    }

    pub fn finish(self) -> Captured {
        let truncated = self.is_cut();
        let (text, encoding) = if Defence::Bytes.holds() {
            output::encode(self.kept)
        } else {
            (String::from_utf8_lossy(&self.kept).into_owned(), Encoding::Utf8)
        };
        Captured { text, encoding, bytes: self.total, truncated }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::OwnedFd;

    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;

    use super::*;

    const PLENTY: usize = usize::MAX;

    fn stream(limit: u64) -> (Stream, File) {
        let (read, write): (OwnedFd, OwnedFd) =
            pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        (Stream::new(File::from(read), 1, limit), File::from(write))
    }

    #[test]
    fn the_limit_is_exact_and_the_rest_is_counted() {
        let (mut stream, mut writer) = stream(5);
        assert!(matches!(stream.read(PLENTY), Progress::Empty));
        writer.write_all(b"abc").unwrap();
        assert!(matches!(stream.read(PLENTY), Progress::Chunk(c) if c == b"\x01abc"));
        writer.write_all(b"defg").unwrap();
        assert!(matches!(stream.read(PLENTY), Progress::Chunk(c) if c == b"\x01de"));
        writer.write_all(b"h").unwrap();
        assert!(matches!(stream.read(PLENTY), Progress::Dropped));
        drop(writer);
        assert!(matches!(stream.read(PLENTY), Progress::End) && stream.ended);
        let captured = stream.finish();
        assert_eq!((captured.text.as_str(), captured.bytes), ("abcde", 8));
        assert!(captured.truncated);
    }

    #[test]
    fn after_a_gap_nothing_is_kept_even_if_room_comes_back() {
        let (mut stream, mut writer) = stream(100);
        writer.write_all(b"abc").unwrap();
        assert!(matches!(stream.read(2), Progress::Chunk(c) if c == b"\x01ab"));
        writer.write_all(b"def").unwrap();
        assert!(matches!(stream.read(PLENTY), Progress::Dropped));
        let captured = stream.finish();
        assert_eq!((captured.text.as_str(), captured.bytes, captured.truncated), ("ab", 6, true));
    }

    #[test]
    fn all_of_it_is_not_truncated() {
        let (mut stream, mut writer) = stream(3);
        writer.write_all(b"abc").unwrap();
        stream.read(PLENTY);
        assert!(!stream.finish().truncated);
    }
}
