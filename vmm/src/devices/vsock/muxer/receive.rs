//! Packets from the guest.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Muxer;
use crate::devices::vsock::connection::{Connection, ConnectionId, ConnectionPhase, Ending, Ports};
use crate::devices::vsock::endpoints::HostEndpoints;
use crate::devices::vsock::limits::BACKLOG;
use crate::devices::vsock::packet::{
    HOST_CID, Op, PacketHeader, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM,
};

impl Muxer {
    /// Takes a packet from the guest. Returns the connection that its payload belongs to; the
    /// payload has been checked to fit.
    pub fn receive(
        &mut self,
        header: &PacketHeader,
        host: &mut HostEndpoints,
    ) -> Option<ConnectionId> {
        host.counters.packets_from_guest += 1;
        if header.src_cid != self.guest_cid {
            host.counters.spoofed_source += 1;
            return None;
        }
        if header.dst_cid != HOST_CID {
            host.counters.wrong_destination += 1;
            self.reply_rst(header);
            return None;
        }
        if header.kind != TYPE_STREAM {
            host.counters.unknown_type += 1;
            self.reply_rst(header);
            return None;
        }
        let ports = Ports { guest: header.src_port, host: header.dst_port };
        let Some(op) = Op::from_raw(header.op) else {
            host.counters.unknown_operation += 1;
            match self.find(ports) {
                Some(id) => self.abort(id, host),
                None => self.reply_rst(header),
            }
            return None;
        };
        match (self.find(ports), op) {
            (Some(id), op) => self.receive_known(id, op, header, host),
            (None, Op::Request) => {
                self.accept(ports, header, host);
                None
            }
            // A reset is never answered, or two sides could go on for ever.
            (None, Op::Rst) => None,
            (None, _) => {
                host.counters.unknown_connection += 1;
                self.reply_rst(header);
                None
            }
        }
    }

    fn receive_known(
        &mut self,
        id: ConnectionId,
        op: Op,
        header: &PacketHeader,
        host: &mut HostEndpoints,
    ) -> Option<ConnectionId> {
        let connection = self.connections.get_mut(&id)?;
        connection.update_peer_credit(header);
        let established = connection.phase == ConnectionPhase::Established;
        match op {
            Op::Rst => {
                let ending = connection.ending_by_reset();
                self.end(id, ending, host);
                return None;
            }
            Op::Response
                if connection.phase == ConnectionPhase::Connecting && connection.requested =>
            {
                connection.phase = ConnectionPhase::Established;
                host.wake(id);
            }
            Op::Rw
                if established
                    && !connection.owes_response
                    && connection.peer_shutdown & SHUTDOWN_SEND == 0 =>
            {
                let length = header.len as usize;
                if length > connection.recv_window() {
                    host.counters.credit_violations += 1;
                    self.abort(id, host);
                    return None;
                }
                if !connection.recv_closed() {
                    self.queue(id);
                    return Some(id);
                }
                connection.forward(length);
            }
            Op::CreditUpdate if established => {}
            Op::CreditRequest if established => connection.owes_credit = true,
            Op::Shutdown if established => {
                connection.peer_shutdown |= header.flags & SHUTDOWN_BOTH;
                if connection.peer_shutdown & SHUTDOWN_RECEIVE != 0 {
                    connection.send = VecDeque::new();
                }
                if connection.peer_shutdown == SHUTDOWN_BOTH {
                    // Lets the guest forget the connection now; the host can go on reading.
                    self.reset_peer(id);
                    self.end(id, Ending::Finished, host);
                    return None;
                }
                host.wake(id);
            }
            _ => {
                host.counters.protocol_violations += 1;
                self.abort(id, host);
                return None;
            }
        }
        self.queue(id);
        None
    }

    /// The guest wants to connect.
    fn accept(&mut self, ports: Ports, header: &PacketHeader, host: &mut HostEndpoints) {
        let Some(listener) = host.listeners.get(&ports.host) else {
            host.counters.refused_no_listener += 1;
            self.reply_rst(header);
            return;
        };
        let waiting = self.backlogs.get(&ports.host).map_or(0, VecDeque::len);
        if waiting >= BACKLOG {
            host.counters.refused_backlog_full += 1;
            self.reply_rst(header);
            return;
        }
        let wait_queue = Arc::clone(&listener.wait_queue);
        if !self.make_room(host) {
            host.counters.refused_limit += 1;
            self.reply_rst(header);
            return;
        }
        let id = ConnectionId(host.fresh_id());
        self.insert(id, Connection::accepted(ports, header));
        self.backlogs.entry(ports.host).or_default().push_back(id);
        wait_queue.wake_all();
    }
}
