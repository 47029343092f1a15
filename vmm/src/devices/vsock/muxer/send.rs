//! Packets for the guest: which source is next, and what the packet holds.

use super::Muxer;
use crate::devices::vsock::connection::{BUFFER_BYTES, ConnectionId, Outgoing};
use crate::devices::vsock::endpoints::HostEndpoints;
use crate::devices::vsock::limits::{MAX_CONNECTIONS, MAX_PENDING_RST};
use crate::devices::vsock::packet::{HOST_CID, Op, PacketHeader, TYPE_STREAM};

/// Where the next packet for the guest comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketSource {
    /// The queue of RST packets that belong to no connection.
    Rst,
    /// A connection.
    Connection(ConnectionId),
}

impl Muxer {
    /// Where the next packet comes from. RST packets and connections take turns, so that a guest
    /// process that asks for resets cannot silence the rest.
    pub fn next_source(&mut self) -> Option<PacketSource> {
        let connection = loop {
            let Some(id) = self.ready.front().copied() else {
                break None;
            };
            match self.connections.get_mut(&id) {
                Some(connection) if connection.next(1).is_some() => {
                    break Some(PacketSource::Connection(id));
                }
                Some(connection) => connection.queued = false,
                None => {}
            }
            self.ready.pop_front();
        };
        let rst = (!self.pending_rst.is_empty()).then_some(PacketSource::Rst);
        if self.rst_first { rst.or(connection) } else { connection.or(rst) }
    }

    /// The packet from `source`, with at most `room` bytes of payload.
    pub fn packet(
        &self,
        source: PacketSource,
        room: usize,
    ) -> Option<(PacketHeader, Option<Outgoing>)> {
        match source {
            PacketSource::Rst => Some((*self.pending_rst.front()?, None)),
            PacketSource::Connection(id) => {
                let connection = self.connections.get(&id)?;
                let outgoing = connection.next(room)?;
                let header = PacketHeader {
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
    pub fn on_sent(
        &mut self,
        source: PacketSource,
        outgoing: Option<&Outgoing>,
        host: &mut HostEndpoints,
    ) {
        host.counters.packets_to_guest += 1;
        match source {
            PacketSource::Rst => {
                self.pending_rst.pop_front();
                self.rst_first = false;
            }
            PacketSource::Connection(id) => {
                self.rst_first = true;
                self.ready.pop_front();
                let Some(connection) = self.connections.get_mut(&id) else {
                    return;
                };
                connection.queued = false;
                if let Some(outgoing) = outgoing {
                    connection.on_sent(outgoing);
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

    pub(super) fn reply_rst(&mut self, header: &PacketHeader) {
        if header.op != Op::Rst as u16 {
            self.queue_rst(header.reset());
        }
    }

    /// The guest cannot get past [`MAX_PENDING_RST`], the host cannot get past one reset for each of
    /// its connections on top.
    pub(super) fn queue_rst(&mut self, header: PacketHeader) {
        if self.pending_rst.len() < MAX_PENDING_RST + MAX_CONNECTIONS {
            self.pending_rst.push_back(header);
        }
    }
}
