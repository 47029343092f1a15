//! One connection: its state machine, its credit and its two buffers. Plain data, so that a
//! captured machine is a clone of it.

use std::collections::VecDeque;
use std::io::Read;
use std::task::Poll;

use serde::{Deserialize, Serialize};

use super::error::VsockError;
use super::packet::{Op, PacketHeader, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

/// Size of each direction's host buffer, in bytes: the credit given to the guest, and the most a
/// writer can be ahead of it.
pub const BUFFER_BYTES: u32 = 256 << 10;
/// Credit is given back when the reader has freed this much.
const CREDIT_STEP: u32 = BUFFER_BYTES / 4;
/// Largest payload of one packet, which is also the largest Linux sends.
const MAX_PAYLOAD: usize = 64 << 10;

/// Names a connection for ever: never given twice, so that a stale handle finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

/// What names a connection towards the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ports {
    /// The guest's port.
    pub guest: u32,
    /// The host's port.
    pub host: u32,
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConnectionPhase {
    /// The host asked, the guest has not answered.
    Connecting,
    /// Open, in at least one direction.
    Established,
    /// Over. The guest has forgotten it; the host may still read what arrived.
    Closed(Ending),
}

/// How a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// Both sides said so.
    Finished,
    /// One side broke it off.
    Reset,
    /// The guest never accepted it.
    Refused,
}

/// A packet a connection wants to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outgoing {
    /// What it does.
    pub op: Op,
    /// Flags of the header.
    pub flags: u32,
    /// Payload, from the front of the send buffer.
    pub len: usize,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Ports of the connection.
    pub ports: Ports,
    /// Where it stands.
    pub phase: ConnectionPhase,
    /// Bytes from the guest that the host has not read.
    pub receive: VecDeque<u8>,
    /// Bytes from the host that the guest has no buffer or credit for yet.
    pub send: VecDeque<u8>,
    /// Bytes the host has taken out of `receive` (`fwd_cnt`); wraps.
    pub forwarded: u32,
    /// `forwarded` as the guest last heard it.
    pub advertised: u32,
    /// Bytes sent to the guest; wraps.
    pub sent: u32,
    /// The guest's buffer size, as last heard.
    pub peer_buffer: u32,
    /// The guest's `fwd_cnt`, as last heard.
    pub peer_forwarded: u32,
    /// `SHUTDOWN` flags the host wants the guest to know.
    pub shutdown: u32,
    /// `SHUTDOWN` flags the guest was told.
    pub shutdown_told: u32,
    /// `SHUTDOWN` flags the guest sent.
    pub peer_shutdown: u32,
    /// The guest has seen the `REQUEST`.
    pub requested: bool,
    /// A `RESPONSE` is owed.
    pub owes_response: bool,
    /// A `CREDIT_UPDATE` is owed.
    pub owes_credit: bool,
    /// The guest was asked for credit in the present stall.
    pub asked_credit: bool,
    /// In the muxer's list of connections with something to send.
    pub queued: bool,
    /// No handle is left: it only lives until the guest lets go.
    pub lingering: bool,
}

impl Connection {
    /// A connection the host asks for.
    pub fn connecting(ports: Ports) -> Self {
        Self {
            ports,
            phase: ConnectionPhase::Connecting,
            receive: VecDeque::new(),
            send: VecDeque::new(),
            forwarded: 0,
            advertised: 0,
            sent: 0,
            peer_buffer: 0,
            peer_forwarded: 0,
            shutdown: 0,
            shutdown_told: 0,
            peer_shutdown: 0,
            requested: false,
            owes_response: false,
            owes_credit: false,
            asked_credit: false,
            queued: false,
            lingering: false,
        }
    }

    /// A connection the guest asked for with `request`.
    pub fn accepted(ports: Ports, request: &PacketHeader) -> Self {
        let mut connection = Self {
            phase: ConnectionPhase::Established,
            owes_response: true,
            ..Self::connecting(ports)
        };
        connection.update_peer_credit(request);
        connection
    }

    /// Takes over the credit that every packet carries.
    pub fn update_peer_credit(&mut self, header: &PacketHeader) {
        self.peer_buffer = header.buf_alloc;
        self.peer_forwarded = header.fwd_cnt;
        if self.credit() > 0 {
            self.asked_credit = false;
        }
    }

    /// Bytes the guest can take now. A guest that claims to have taken more than it was sent gets
    /// nothing.
    pub fn credit(&self) -> u32 {
        let in_flight = self.sent.wrapping_sub(self.peer_forwarded);
        self.peer_buffer.saturating_sub(in_flight)
    }

    /// Bytes of payload that may still arrive.
    pub fn recv_window(&self) -> usize {
        (BUFFER_BYTES as usize).saturating_sub(self.receive.len())
    }

    /// True when what arrives is thrown away: the host has closed this direction.
    pub fn recv_closed(&self) -> bool {
        self.shutdown & SHUTDOWN_RECEIVE != 0
    }

    /// The host has done with `count` received bytes.
    pub fn forward(&mut self, count: usize) {
        self.forwarded = self.forwarded.wrapping_add(count as u32);
        let freed = self.forwarded.wrapping_sub(self.advertised);
        if freed >= CREDIT_STEP && self.peer_shutdown & SHUTDOWN_SEND == 0 {
            self.owes_credit = true;
        }
    }

    /// Closes directions for the host.
    pub fn close(&mut self, flags: u32) {
        self.shutdown |= flags;
        if self.recv_closed() {
            let dropped = self.receive.len();
            self.receive = VecDeque::new();
            self.forward(dropped);
        }
    }

    /// Ends the connection; only received bytes stay.
    pub fn end(&mut self, ending: Ending) {
        // Whatever ends it, a connection that never was one has been refused.
        let ending = match self.phase {
            ConnectionPhase::Connecting => Ending::Refused,
            ConnectionPhase::Established | ConnectionPhase::Closed(_) => ending,
        };
        self.phase = ConnectionPhase::Closed(ending);
        self.send = VecDeque::new();
        self.owes_response = false;
        self.owes_credit = false;
    }

    /// What a reset by the guest means: the last word of an orderly end, or a break.
    pub fn ending_by_reset(&self) -> Ending {
        let agreed = self.peer_shutdown & SHUTDOWN_SEND != 0 || self.shutdown_told == SHUTDOWN_BOTH;
        if agreed { Ending::Finished } else { Ending::Reset }
    }

    /// Reads for the host.
    pub fn read(&mut self, data: &mut [u8]) -> Poll<Result<usize, VsockError>> {
        let count = take_front(&mut self.receive, data);
        if count > 0 {
            self.forward(count);
            return Poll::Ready(Ok(count));
        }
        if self.recv_closed() || self.peer_shutdown & SHUTDOWN_SEND != 0 {
            return Poll::Ready(Ok(0));
        }
        match self.phase {
            ConnectionPhase::Connecting | ConnectionPhase::Established => Poll::Pending,
            ConnectionPhase::Closed(Ending::Finished) => Poll::Ready(Ok(0)),
            ConnectionPhase::Closed(Ending::Reset) => Poll::Ready(Err(VsockError::Reset)),
            ConnectionPhase::Closed(Ending::Refused) => {
                Poll::Ready(Err(VsockError::Refused(self.ports.guest)))
            }
        }
    }

    /// Writes for the host.
    pub fn write(&mut self, data: &[u8]) -> Poll<Result<usize, VsockError>> {
        match self.phase {
            ConnectionPhase::Closed(Ending::Refused) => {
                return Poll::Ready(Err(VsockError::Refused(self.ports.guest)));
            }
            ConnectionPhase::Closed(Ending::Reset) => return Poll::Ready(Err(VsockError::Reset)),
            ConnectionPhase::Closed(Ending::Finished) => {
                return Poll::Ready(Err(VsockError::Closed));
            }
            ConnectionPhase::Connecting | ConnectionPhase::Established => {}
        }
        let closed = self.shutdown & SHUTDOWN_SEND | self.peer_shutdown & SHUTDOWN_RECEIVE;
        if closed != 0 {
            return Poll::Ready(Err(VsockError::Closed));
        }
        let room = (BUFFER_BYTES as usize).saturating_sub(self.send.len());
        let taken = data.get(..room.min(data.len())).unwrap_or_default();
        if taken.is_empty() && !data.is_empty() {
            return Poll::Pending;
        }
        self.send.extend(taken);
        Poll::Ready(Ok(taken.len()))
    }

    /// What to send next, with at most `room` bytes of payload.
    pub fn next(&self, room: usize) -> Option<Outgoing> {
        let bare = |op| Some(Outgoing { op, flags: 0, len: 0 });
        match self.phase {
            ConnectionPhase::Connecting if self.requested => return None,
            ConnectionPhase::Connecting => return bare(Op::Request),
            ConnectionPhase::Closed(_) => return None,
            ConnectionPhase::Established => {}
        }
        if self.owes_response {
            return bare(Op::Response);
        }
        let credit = self.credit() as usize;
        let len = self.send.len().min(credit).min(room).min(MAX_PAYLOAD);
        if len > 0 {
            return Some(Outgoing { op: Op::Rw, flags: 0, len });
        }
        if self.owes_credit {
            return bare(Op::CreditUpdate);
        }
        if credit == 0 && !self.send.is_empty() && !self.asked_credit {
            return bare(Op::CreditRequest);
        }
        // The promise to send no more comes after the last byte.
        let mut flags = self.shutdown;
        if !self.send.is_empty() {
            flags &= !SHUTDOWN_SEND;
        }
        (flags != self.shutdown_told).then_some(Outgoing { op: Op::Shutdown, flags, len: 0 })
    }

    /// The guest has `outgoing`.
    pub fn on_sent(&mut self, outgoing: &Outgoing) {
        // Every packet carries credit.
        self.advertised = self.forwarded;
        self.owes_credit = false;
        match outgoing.op {
            Op::Request => self.requested = true,
            Op::Response => self.owes_response = false,
            Op::CreditRequest => self.asked_credit = true,
            Op::Shutdown => self.shutdown_told = outgoing.flags,
            Op::Rw => {
                let count = outgoing.len.min(self.send.len());
                self.send.drain(..count);
                self.sent = self.sent.wrapping_add(count as u32);
            }
            Op::Rst | Op::CreditUpdate => {}
        }
    }
}

/// Moves bytes from the front of `from`; returns how many.
fn take_front(from: &mut VecDeque<u8>, to: &mut [u8]) -> usize {
    // One read stops where the ring wraps, and reading from memory cannot fail.
    let first = from.read(to).unwrap_or(0);
    let rest = to.get_mut(first..).unwrap_or_default();
    first + from.read(rest).unwrap_or(0)
}
