//! One connection of the host: frames in, frames out. It holds up no other connection.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::time::{Duration, Instant};

use guest::framing::{FrameDecoder, encode_frame};
use guest::wire::GuestMessage;

use super::console;

/// How long a peer may stay silent in the middle of a frame, or take to read its last one.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// Unsent bytes from which on the guest takes no more requests and the output of tools waits in their pipes.
const CONGESTED_BYTES: usize = 1 << 20;
/// Read at once at most.
pub const READ_BYTES: usize = 64 << 10;
/// Most frames sent in one go.
const FRAMES_AT_ONCE: usize = 16;

/// A connection and its buffers.
pub struct Connection {
    stream: File,
    pub decoder: FrameDecoder,
    /// Frames, the first of them sent up to `sent_of_first`.
    unsent: VecDeque<Vec<u8>>,
    sent_of_first: usize,
    unsent_bytes: usize,
    stalled_since: Option<Instant>,
    /// Frames wait in the decoder: no input will tell that they can be dealt with again.
    pub has_backlog: bool,
    /// No more input; closes when everything is sent.
    closing: bool,
    /// What the poller was told to watch for: input and output.
    pub interest: (bool, bool),
    /// The poller was told not to watch the pipes of this connection's tools.
    pub tools_paused: bool,
}

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Open,
    Closed,
}

impl Connection {
    pub fn new(stream: File) -> Self {
        Self {
            stream,
            decoder: FrameDecoder::new(),
            unsent: VecDeque::new(),
            sent_of_first: 0,
            unsent_bytes: 0,
            stalled_since: None,
            has_backlog: false,
            closing: false,
            interest: (true, false),
            tools_paused: false,
        }
    }

    pub fn stream(&self) -> &File {
        &self.stream
    }

    /// Reads what is there, once, so that one busy peer does not starve the others.
    pub fn read(&mut self, buffer: &mut [u8]) -> Fate {
        match self.stream.read(buffer) {
            Ok(0) => Fate::Closed,
            Ok(count) => {
                self.decoder.push(buffer.get(..count).unwrap_or_default());
                self.stalled_since = None;
                Fate::Open
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Fate::Open
            }
            Err(_) => Fate::Closed,
        }
    }

    /// Starts or stops the clock of a partial frame. A frame that waits here because the peer
    /// does not read is not partial.
    pub fn note_progress(&mut self) {
        if self.closing {
            return;
        }
        if !self.decoder.is_inside_frame() || self.is_congested() {
            self.stalled_since = None;
        } else if self.stalled_since.is_none() {
            self.stalled_since = Some(Instant::now());
        }
    }

    /// When the peer must have gone on.
    pub fn deadline(&self) -> Option<Instant> {
        self.stalled_since.and_then(|since| since.checked_add(STALL_LIMIT))
    }

    /// Queues a message.
    pub fn send(&mut self, message: &GuestMessage) {
        match encode_frame(message) {
            Ok(frame) => {
                self.unsent_bytes += frame.len();
                self.unsent.push_back(frame);
            }
            // Sizes are bounded where messages are made.
            Err(e) => console::print(&format!("cannot send: {e}")),
        }
    }

    /// Takes no more input and closes once everything is sent, or the peer takes too long.
    pub fn close_after_sending(&mut self) {
        self.closing = true;
        self.stalled_since = Some(Instant::now());
    }

    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Sends as much as the peer takes. Frames that wait travel together.
    pub fn flush(&mut self) -> Fate {
        while self.has_unsent() {
            let mut sent = self.sent_of_first;
            let rests: Vec<_> = self
                .unsent
                .iter()
                .take(FRAMES_AT_ONCE)
                .map(|frame| frame.get(std::mem::take(&mut sent)..).unwrap_or_default())
                .map(IoSlice::new)
                .collect();
            match self.stream.write_vectored(&rests) {
                Ok(count) => self.sent(count),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Fate::Open,
                Err(_) => return Fate::Closed,
            }
        }
        if self.closing { Fate::Closed } else { Fate::Open }
    }

    fn sent(&mut self, count: usize) {
        self.unsent_bytes = self.unsent_bytes.saturating_sub(count);
        self.sent_of_first = self.sent_of_first.saturating_add(count);
        while let Some(first) = self.unsent.front()
            && first.len() <= self.sent_of_first
        {
            self.sent_of_first -= first.len();
            self.unsent.pop_front();
        }
    }

    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// What to watch for: input and output.
    pub fn wanted(&self) -> (bool, bool) {
        let input = !self.closing && !self.is_congested();
        (input, self.has_unsent() || (self.has_backlog && !self.closing))
    }

    pub fn is_congested(&self) -> bool {
        self.unsent_bytes > CONGESTED_BYTES
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use guest::wire::{ErrorCode, ErrorEvent};

    use super::*;

    fn pair() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Connection::new(File::from(OwnedFd::from(ours))), theirs)
    }

    fn message(bytes: usize) -> GuestMessage {
        GuestMessage::ErrorEvent(ErrorEvent {
            code: ErrorCode::ToolBusy,
            message: "x".repeat(bytes),
            request_id: None,
        })
    }

    #[test]
    fn what_a_slow_peer_reads_late_is_all_there_and_in_order() {
        let (mut connection, mut peer) = pair();
        let sizes = [10, 900_000, 20, 900_000];
        let expected: Vec<u8> =
            sizes.iter().flat_map(|size| encode_frame(&message(*size)).unwrap()).collect();
        for size in sizes {
            connection.send(&message(size));
            assert_eq!(connection.flush(), Fate::Open);
        }
        assert!(connection.is_congested() && connection.has_unsent());
        let mut found = vec![0; expected.len()];
        let mut filled = 0;
        while filled < found.len() {
            assert_eq!(connection.flush(), Fate::Open);
            filled += peer.read(&mut found[filled..]).unwrap();
        }
        assert!(found == expected);
        assert!(!connection.has_unsent() && connection.unsent_bytes == 0);
    }

    #[test]
    fn frames_that_wait_travel_together() {
        // A datagram for every call that sends.
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut connection = Connection::new(File::from(OwnedFd::from(ours)));
        let sizes = [10, 20, 30];
        for size in sizes {
            connection.send(&message(size));
        }
        assert_eq!(connection.flush(), Fate::Open);
        let expected: Vec<u8> =
            sizes.iter().flat_map(|size| encode_frame(&message(*size)).unwrap()).collect();
        let mut found = vec![0; 4096];
        let count = theirs.recv(&mut found).unwrap();
        assert!(found[..count] == expected);
        assert!(!connection.has_unsent() && connection.sent_of_first == 0);
    }

    #[test]
    fn only_the_inside_of_a_frame_is_timed_and_every_byte_restarts_the_clock() {
        let (mut connection, mut peer) = pair();
        connection.note_progress();
        assert_eq!(connection.deadline(), None);
        peer.write_all(&[0, 0]).unwrap();
        assert_eq!(connection.read(&mut [0; 64]), Fate::Open);
        connection.note_progress();
        let first = connection.deadline().unwrap();
        // Looked at for another reason: nothing came, so the clock goes on.
        assert_eq!(connection.read(&mut [0; 64]), Fate::Open);
        connection.note_progress();
        assert_eq!(connection.deadline(), Some(first));
        peer.write_all(&[0]).unwrap();
        connection.read(&mut [0; 64]);
        connection.note_progress();
        assert!(connection.deadline().unwrap() > first);
        peer.write_all(b"\x02{}").unwrap();
        connection.read(&mut [0; 64]);
        assert_eq!(connection.decoder.next_frame().unwrap(), Some(&b"{}"[..]));
        connection.note_progress();
        assert_eq!(connection.deadline(), None);
    }

    #[test]
    fn a_refused_peer_has_limited_time_to_read_why() {
        let (mut connection, peer) = pair();
        connection.send(&message(4 << 20));
        connection.close_after_sending();
        assert_eq!(connection.flush(), Fate::Open);
        assert!(connection.deadline().is_some());
        // Not dropped: a process that another test starts may hold a copy of the descriptor for a moment.
        peer.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(connection.flush(), Fate::Closed);
    }

    #[test]
    fn frames_that_wait_are_woken_by_output_whoever_sent_it() {
        let (mut connection, _peer) = pair();
        assert_eq!(connection.wanted(), (true, false));
        connection.has_backlog = true;
        // A tool's output has just taken everything unsent along: nothing is left to wait for.
        assert_eq!(connection.wanted(), (true, true));
        connection.close_after_sending();
        assert_eq!(connection.wanted(), (false, false));
    }

    #[test]
    fn everything_sent_ends_a_closing_connection_and_no_other() {
        let (mut connection, _peer) = pair();
        connection.send(&message(1));
        assert_eq!(connection.flush(), Fate::Open);
        connection.close_after_sending();
        assert_eq!(connection.flush(), Fate::Closed);
    }
}
