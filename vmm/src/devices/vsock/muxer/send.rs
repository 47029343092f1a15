//! Packets for the guest: whose turn it is, and what it says.

use super::{MAX_ANSWERS, MAX_CONNECTIONS, Muxer};
use crate::devices::vsock::connection::{BUFFER_BYTES, ConnectionId, Outgoing};
use crate::devices::vsock::packet::{HOST_CID, Header, Op, TYPE_STREAM};
use crate::devices::vsock::registry::Registry;

/// Where the next packet for the guest comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The queue of answers.
    Answer,
    /// A connection.
    Connection(ConnectionId),
}

impl Muxer {
    /// Where the next packet comes from. Answers and connections take turns, so that a guest
    /// process that asks for resets cannot silence the rest.
    pub fn next_source(&mut self) -> Option<Source> {
        let connection = loop {
            let Some(id) = self.ready.front().copied() else {
                break None;
            };
            match self.connections.get_mut(&id) {
                Some(connection) if connection.next(1).is_some() => {
                    break Some(Source::Connection(id));
                }
                Some(connection) => connection.queued = false,
                None => {}
            }
            self.ready.pop_front();
        };
        let answer = (!self.answers.is_empty()).then_some(Source::Answer);
        if self.answers_turn { answer.or(connection) } else { connection.or(answer) }
    }

    /// The packet from `source`, with at most `room` bytes of payload.
    pub fn packet(&self, source: Source, room: usize) -> Option<(Header, Option<Outgoing>)> {
        match source {
            Source::Answer => Some((*self.answers.front()?, None)),
            Source::Connection(id) => {
                let connection = self.connections.get(&id)?;
                let outgoing = connection.next(room)?;
                let header = Header {
                    src_cid: HOST_CID,
                    dst_cid: self.guest_cid,
                    src_port: connection.ports.host,
                    dst_port: connection.ports.guest,
                    len: outgoing.len as u32,
                    kind: TYPE_STREAM,
                    op: outgoing.op as u16,
                    flags: outgoing.flags,
                    buf_alloc: BUFFER_BYTES,
                    fwd_cnt: connection.forwarded,
                };
                Some((header, Some(outgoing)))
            }
        }
    }

    /// The guest has the packet from `source`.
    pub fn told(&mut self, source: Source, outgoing: Option<&Outgoing>, host: &mut Registry) {
        host.counters.packets_to_guest += 1;
        match source {
            Source::Answer => {
                self.answers.pop_front();
                self.answers_turn = false;
            }
            Source::Connection(id) => {
                self.answers_turn = true;
                self.ready.pop_front();
                let Some(connection) = self.connections.get_mut(&id) else {
                    return;
                };
                connection.queued = false;
                if let Some(outgoing) = outgoing {
                    connection.told(outgoing);
                    if outgoing.len > 0 {
                        host.counters.bytes_to_guest += outgoing.len as u64;
                        host.wake(id);
                    }
                }
                self.queue(id);
            }
        }
    }

    /// Takes a turn for `id` if it has something to send.
    pub(super) fn queue(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id)
            && !connection.queued
            && connection.next(1).is_some()
        {
            connection.queued = true;
            self.ready.push_back(id);
        }
    }

    pub(super) fn unqueue(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.queued
        {
            connection.queued = false;
            self.ready.retain(|other| *other != id);
        }
    }

    pub(super) fn answer(&mut self, header: &Header) {
        if header.op != Op::Reset as u16 {
            self.push_answer(header.reset());
        }
    }

    /// The guest cannot get past [`MAX_ANSWERS`], the host cannot get past one reset for each of
    /// its connections on top.
    pub(super) fn push_answer(&mut self, header: Header) {
        if self.answers.len() < MAX_ANSWERS + MAX_CONNECTIONS {
            self.answers.push_back(header);
        }
    }
}
