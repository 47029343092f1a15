//! The two halves of a byte stream a channel runs over.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Receiving half. A read that outlasts its limit fails with `WouldBlock` or `TimedOut`.
pub trait ReadLink: Read + Send {
    /// Limits every following read. `limit` is never zero.
    fn limit_reads(&mut self, limit: Duration) -> io::Result<()>;

    /// Ends the stream in both directions, so that the other half does not wait any more.
    fn close(&mut self);
}

/// Sending half. A write that outlasts its limit fails with `WouldBlock` or `TimedOut`.
pub trait WriteLink: Write + Send {
    /// Limits every following write. `limit` is never zero.
    fn limit_writes(&mut self, limit: Duration) -> io::Result<()>;

    /// Ends the stream in both directions, so that the other half does not wait any more.
    fn close(&mut self);
}

// A stream that cannot be closed is closed already, so the results below carry no news.

impl ReadLink for UnixStream {
    fn limit_reads(&mut self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))
    }

    fn close(&mut self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl WriteLink for UnixStream {
    fn limit_writes(&mut self, limit: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(limit))
    }

    fn close(&mut self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}
